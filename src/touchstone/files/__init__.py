"""Files that survive a crash: atomic writes, published folders, hashes, locks, the cache folder and safetensors with limits.

atomic.py   one file: write it whole or not at all, read it with limits, hash it
publish.py  one folder: fill, fsync, rename, mark; verify; lock
places.py   the cache folder, room and permission
tensors.py  safetensors
"""

from touchstone.files.atomic import (
    hash_of,
    open_regular,
    read_json,
    refuse_pointer,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from touchstone.files.places import cache_folder, check_writable, free_bytes
from touchstone.files.publish import COMPLETE, change_folder, is_complete, lock_folder, publish_folder, settle_folder, verify_folder
from touchstone.files.tensors import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    TensorEntry,
    load_tensors,
    save_tensors,
    tensor_header,
    tensor_metadata,
)

__all__ = [
    "COMPLETE",
    "MAX_HEADER_BYTES",
    "MAX_TENSORS",
    "TensorEntry",
    "cache_folder",
    "change_folder",
    "check_writable",
    "free_bytes",
    "hash_of",
    "is_complete",
    "load_tensors",
    "lock_folder",
    "open_regular",
    "publish_folder",
    "read_json",
    "refuse_pointer",
    "save_tensors",
    "settle_folder",
    "sha256_bytes",
    "sha256_file",
    "tensor_header",
    "tensor_metadata",
    "verify_folder",
    "write_bytes",
    "write_json",
    "write_text",
]
