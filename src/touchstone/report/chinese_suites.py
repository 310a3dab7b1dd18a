"""What the benchmarks are and what models they are for, in Chinese; in English they say it themselves (`evaluate.suites`)."""

__all__ = ["CHINESE_NEEDS", "CHINESE_SUITES"]

CHINESE_NEEDS: dict[str, str] = {
    "a language model": "语言模型",
    "a language model, or a classifier of its labels": "语言模型，或其标签的分类器",
    "a model with a span head, or a language model": "带片段抽取头的模型，或语言模型",
    "a tagger of its entities": "其实体的标注模型",
    "an encoder, or a regression head": "编码器，或回归头",
    "an encoder-decoder, or a language model": "编码器-解码器，或语言模型",
}
"""By what a benchmark says in English."""

CHINESE_SUITES: dict[str, str] = {
    "wikitext-2": "维基百科条目。",
    "tinystories": "儿童故事。",
    "openwebtext": "网页文本，以 GPT-2 词元保存。",
    "tang-poems": "唐诗。",
    "clue": "多种类型的中文文本。",
    "lambada": "一段文字的最后一个词，需通读全段才能猜出。",
    "hellaswag": "所述场景如何继续，四个结尾选一。",
    "arc-easy": "学校科学题。",
    "piqa": "两种做法中哪一种能在现实世界里达到目的。",
    "winogrande": "句子接下来说的是两个名字中的哪一个。",
    "copa": "两句话中哪一句是原因或结果。",
    "truthfulqa": "真实的回答是否比常见的谬误更可能。",
    "probes": "测试年轻模型学到了什么的小题。",
    "probes-en": "英文小题。",
    "probes-zh": "中文小题。",
    "cola": "句子是否是合格的英文。",
    "rte": "一段文字是否蕴含一个句子。",
    "sts-b": "两个句子有多相似。",
    "sst-2": "影评句子是否正面。",
    "trec": "问题问的是哪一类事物。",
    "ag-news": "新闻所属的版面。",
    "banking77": "银行客户的意图，共 77 种。",
    "clinc150": "用户的意图，150 种之一或不在其中。",
    "chnsenticorp": "酒店、图书或笔记本电脑的评论是否正面。",
    "xquad-en": "关于英文维基百科段落的问题。",
    "xquad-zh": "同样的问题和段落，中文版。",
    "cmrc2018": "关于中文维基百科段落的问题。",
    "wnut17": "社交媒体中的罕见实体。",
    "wikigold": "维基百科中的实体。",
    "bc5cdr": "论文摘要中的化学物质与疾病。",
    "sec-filings": "金融协议中的实体。",
    "weibo": "中文微博中的实体。",
    "resumes": "中文简历中的实体。",
    "multi30k-de": "图片说明，英译德。",
    "multi30k-fr": "图片说明，英译法。",
    "tatoeba-en-zh": "短句，英译中。",
    "dialogsum": "日常对话的摘要。",
    "scitldr": "论文摘要的一句话概括。",
    "csl-titles": "由摘要拟中文论文标题。",
    "humaneval": "由函数头写出 Python 函数体。",
    "mbpp": "由一句话和测试写出简短的 Python 程序。",
}
"""By the name of the benchmark."""
