"""What a user reads, in Chinese: phrases by group and name; `{name}` marks what is filled in. `english.py` has the same keys."""

__all__ = ["CHINESE"]

CHINESE: dict[str, dict[str, str]] = {
    "note": {
        "warning": "警告：{text}",
        "error": "错误：{text}",
        "reading": "正在从终端读取，按 Ctrl-D 结束。",
    },
    "time": {
        "seconds": "{s} 秒",
        "minutes": "{min} 分 {s} 秒",
        "hours": "{h} 小时 {min} 分",
        "days": "{d} 天 {h} 小时",
    },
    "progress": {
        "done": "{label}：完成，用时 {time}",
        "share": "{label}：{percent}%",
        "count": "{label}：{n}",
    },
    "training": {
        "title": "训练",
        "step": "第 {step} 步，共 {n_steps} 步",
        "step_only": "第 {step} 步",
        "loss": "损失 {value}",
        "bits_per_byte": "每字节 {value} 比特",
        "valid_loss": "验证损失 {value}",
        "valid_bits_per_byte": "验证集每字节 {value} 比特",
        "tokens_per_s": "{value} 词元/秒",
        "peak_fraction": "矩阵乘法峰值的 {value}%",
        "learning_rate": "学习率 {value}",
        "gradient_norm": "梯度范数 {value}",
        "skipped": "已跳过 {value} 步",
        "left": "还需 {time}",
    },
    "plot": {
        "step": "步数",
        "loss": "损失（每词元奈特数）",
        "bits_per_byte": "每字节比特数",
        "training": "训练",
        "validation": "验证",
        "confidence": "平均置信度",
        "accuracy": "正确率",
        "perfect": "完全校准",
        "share": "预测占比",
        "coverage": "作答比例",
        "risk": "所答中的错误率",
        "promised": "错误率 {percent} %",
        "lower_better": "越低越好；横线为 {level}% 区间",
    },
    "page": {
        "contents": "目录",
        "tokens_legend": "词元的底色表示模型给它的概率",
        "tokens_note": "将指针停在词元上可查看概率；没有底色的是给定的文本。",
        "made_by": "由 Touchstone {version} 于 {date} 生成。本页是单个文件，不加载外部内容，也不运行任何脚本。",
    },
}
