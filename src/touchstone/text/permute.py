"""A random order of n things that is never written down: where the i-th goes is computed from i, n and a key.

A Feistel network is a permutation of a power of four whatever its round function is; places beyond n are followed until they fall
inside (cycle walking), which leaves a permutation of n. So the order of a run is a pure function of its seed and epoch, and any
place in it is reached at once. A few things are sorted by their hash instead: small networks reach few of the orders.
Source: Black & Rogaway 2002 (Ciphers with Arbitrary Finite Domains), section 4.
"""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from touchstone.errors import ConfigError

__all__ = ["PERMUTATION_VERSION", "Plan", "permutation_key", "permute"]

PERMUTATION_VERSION = 1
"""Raised whenever the same (index, n, key) would give another place; stored with every position, refused on mismatch."""

_N_ROUNDS = 8  # four make a permutation look random on large domains; those of a few hundred places need more
_FEW = 256  # up to here sorting all of them is as fast as one walk
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # the finaliser of SplitMix64 (Steele, Lea & Flood 2014)


def permute(index: ArrayLike, n: int, key: int) -> NDArray[np.int64]:
    """Where each index (0 … n-1) stands in the random order of n things that `key` draws; a bijection for every n and key."""
    places = np.asarray(index, dtype=np.int64)
    if n < 1 or n > 1 << 62:
        raise ConfigError(f"`n` ({n}) must be from 1 to 2**62.")
    if places.size and (places.min() < 0 or places.max() >= n):
        raise ConfigError(f"indices must be from 0 to {n - 1}; given {places.min()} to {places.max()}.")
    if n <= _FEW:
        return np.argsort(_mix(_spread(key, n)), kind="stable")[places]
    half_bits = (int(n - 1).bit_length() + 1) // 2
    keys = _mix(_spread(key, _N_ROUNDS))
    result = _network(places.ravel().astype(np.uint64), half_bits, keys)
    while (outside := np.flatnonzero(result >= np.uint64(n))).size:
        result[outside] = _network(result[outside], half_bits, keys)
    return result.astype(np.int64).reshape(places.shape)


def permutation_key(*parts: int | str) -> int:
    """A 64-bit key from a seed and what else tells two orders apart."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=8).digest(), "little")


class Plan:
    """Which examples make up each step: every example exactly once an epoch, in a new order each epoch, known for any step at once.

    Steps run on over the end of an epoch, so a batch is always full and may hold examples of two epochs.
    """

    def __init__(self, n_examples: int, batch_size: int, seed: int) -> None:
        if n_examples < 1 or batch_size < 1:
            raise ConfigError(f"`n_examples` ({n_examples}) and `batch_size` ({batch_size}) must be at least 1.")
        self.n_examples, self.batch_size, self.seed = n_examples, batch_size, seed

    @property
    def steps_per_epoch(self) -> float:
        """Steps that use up as many examples as there are; a whole number only by chance."""
        return self.n_examples / self.batch_size

    def epoch(self, step: int) -> int:
        """The epoch of the first example of a step, from 0."""
        return step * self.batch_size // self.n_examples

    def example_ids(self, step: int) -> NDArray[np.int64]:
        """The `batch_size` examples of a step, from 0; a pure function of the seed and the step."""
        if step < 0:
            raise ConfigError(f"`step` ({step}) must be at least 0.")
        first = step * self.batch_size
        ids = np.empty(self.batch_size, dtype=np.int64)
        done = 0
        while done < self.batch_size:
            epoch, place = divmod(first + done, self.n_examples)
            n_here = min(self.batch_size - done, self.n_examples - place)
            key = permutation_key("epoch", self.seed, epoch)
            ids[done : done + n_here] = permute(np.arange(place, place + n_here), self.n_examples, key)
            done += n_here
        return ids


def _network(values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << bits | right


def _spread(key: int, n: int) -> NDArray[np.uint64]:
    """n far-apart numbers from one key: steps of the golden ratio."""
    return np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % (1 << 64))


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (value ^ (value >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))
