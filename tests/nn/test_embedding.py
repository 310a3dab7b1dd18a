import torch

from touchstone.nn.embedding import TokenTable


def test_a_token_is_its_row_times_the_scale():
    table = TokenTable(11, 4, scale=2.0)
    torch.nn.init.normal_(table.weight)
    token_ids = torch.tensor([[10, 0, 3], [3, 3, 1]])
    assert torch.equal(table(token_ids), table.weight[token_ids] * 2.0)
