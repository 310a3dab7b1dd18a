"""T5's relative positions against the field's own implementation and by their definition."""

import pytest
import torch

from touchstone.errors import ConfigError
from touchstone.nn.position import RelativeBias, RelativePositions, distance_buckets


@pytest.mark.slow
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (8, 20), (6, 5)])
def test_buckets_are_those_of_transformers(both_ways, n_buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    spec = RelativePositions(both_ways=both_ways, n_buckets=n_buckets, max_distance=max_distance)
    ahead = torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(ahead, bidirectional=both_ways, num_buckets=n_buckets, max_distance=max_distance)
    assert distance_buckets(ahead, spec).tolist() == theirs.tolist()


def test_a_bias_is_the_tables_entry_for_the_head_and_the_bucket_of_the_distance():
    spec = RelativePositions(both_ways=True, n_buckets=8, max_distance=20)
    bias = RelativeBias(spec, n_heads=3)
    torch.nn.init.normal_(bias.weight)
    queries, keys = torch.tensor([[4, 5]]), torch.tensor([[0, 2, 5, 9, 30]])
    got = bias(queries, keys)
    assert got.shape == (1, 3, 2, 5)
    for t, query in enumerate(queries[0]):
        for s, key in enumerate(keys[0]):
            bucket = int(distance_buckets(key - query, spec))
            torch.testing.assert_close(got[0, :, t, s], bias.weight[bucket])


def test_buckets_that_leave_no_room_for_far_distances_are_refused():
    with pytest.raises(ConfigError, match=r"`max_distance` \(8\) above 8"):
        RelativePositions(both_ways=True, n_buckets=32, max_distance=8)
    with pytest.raises(ConfigError, match="must be even"):
        RelativePositions(both_ways=False, n_buckets=7)
