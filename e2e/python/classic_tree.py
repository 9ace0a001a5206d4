"""Makes and describes trees of share containers with the code of the installed `tahoe-lafs`.

Usage: classic_tree.py make DIR        writes DIR/shares: both kinds, both versions, few and many leases, and files that
                                       are no containers; the same bytes each time (the vectors of the server's tests)
       classic_tree.py downgrade DIR   rewrites every container of version 2 below DIR as one of version 1
       classic_tree.py describe DIR    prints one line of JSON: every share below DIR, as a storage server reads it
"""

import hashlib
import json
import os
import sys

from allmydata.storage import immutable_schema, mutable_schema
from allmydata.storage.common import si_b2a, storage_index_to_dir
from allmydata.storage.immutable import ShareFile
from allmydata.storage.lease import LeaseInfo
from allmydata.storage.mutable import MutableShareFile
from allmydata.storage.shares import get_share_file

NODE_ID = b"N" * 20
DAY = 24 * 3600
EPOCH = 1_700_000_000


def schema(schemas, version):
    return next(known for known in schemas.ALL_SCHEMAS if known.version == version)


def lease(number, expires_at, owner=1):
    renew, cancel = (hashlib.sha256(b"%s %d" % (what, number)).digest() for what in (b"renew", b"cancel"))
    return LeaseInfo(owner, renew, cancel, expires_at, NODE_ID)


def path_of(root, index, number):
    folder = os.path.join(root, "shares", storage_index_to_dir(index))
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, "%d" % number)


def make_immutable(path, version, data, leases):
    share = ShareFile(path, max_size=len(data), create=True, schema=schema(immutable_schema, version))
    share.write_share_data(0, data)
    for info in leases:
        share.add_lease(info)


def make_mutable(path, version, data, leases, write_enabler):
    share = MutableShareFile(path, schema=schema(mutable_schema, version))
    share.create(NODE_ID, write_enabler)
    share = MutableShareFile(path)
    share.writev([(0, data)], None)
    for info in leases:
        share.add_lease(1 << 30, info)


def index_of(number):
    return bytes([number]) * 16


def make(root):
    """One storage index for each case: its bytes are all the number of the case."""
    data = bytes(range(200)) * 5
    for number, version in ((1, 1), (2, 2)):
        make_immutable(path_of(root, index_of(number), 0), version, data, [lease(1, EPOCH + 31 * DAY, owner=0)])
        many = [lease(n, EPOCH + n * DAY) for n in range(1, 8)]
        make_immutable(path_of(root, index_of(number), 1), version, data[: 12 + number], many)
        make_immutable(path_of(root, index_of(number), 10), version, data[:7], [])
    for number, version in ((3, 1), (4, 2)):
        enabler = bytes([number]) * 32
        make_mutable(path_of(root, index_of(number), 0), version, data, [lease(1, EPOCH + 31 * DAY)], enabler)
        many = [lease(n, EPOCH + n * DAY) for n in range(1, 8)]
        make_mutable(path_of(root, index_of(number), 3), version, data[:300], many, enabler)
    # A container that has shrunk keeps its room.
    make_mutable(path_of(root, index_of(5), 0), 2, data, [lease(n, EPOCH + n * DAY) for n in range(1, 6)], b"\x05" * 32)
    MutableShareFile(path_of(root, index_of(5), 0)).writev([], 100)
    make_immutable(path_of(root, index_of(6), 0), 2, b"", [lease(1, EPOCH)])
    spoil(root)


def spoil(root):
    whole = {}
    for number in (1, 3):
        with open(path_of(root, index_of(number), 0), "rb") as f:
            whole[number] = f.read()
    for number, content in (
        (0, b""),
        (1, b"no container at all, but long enough to be one of either kind" * 12),
        (2, whole[1][:-300]),
        (3, whole[3][:700]),
        (4, whole[3].replace(b"container v1", b"container v9", 1)),
        (5, b"\x00\x00\x00\x03" + whole[1][4:]),
    ):
        with open(path_of(root, index_of(7), number), "wb") as f:
            f.write(content)
    for name in ("README", "1.tmp", "007", "256"):
        with open(os.path.join(os.path.dirname(path_of(root, index_of(7), 0)), name), "wb") as f:
            f.write(whole[1])
    incoming = os.path.join(root, "shares", "incoming", storage_index_to_dir(index_of(8)))
    os.makedirs(incoming)
    with open(os.path.join(incoming, "0"), "wb") as f:
        f.write(whole[1][:100])


def containers(root):
    for folder, _, files in sorted(os.walk(os.path.join(root, "shares"))):
        if "incoming" not in folder:
            for name in sorted(files):
                if name.isdigit():
                    yield os.path.join(folder, name)


def downgrade(root):
    for path in containers(root):
        share = get_share_file(path)
        old = path + ".old"
        os.rename(path, old)
        share.home = old
        leases = [lease(n, info.get_expiration_time()) for n, info in enumerate(share.get_leases())]
        if share.sharetype == "mutable":
            with open(old, "rb") as f:
                write_enabler, _ = share._read_write_enabler_and_nodeid(f)
            make_mutable(path, 1, share.readv([(0, share.get_length())])[0], leases, write_enabler)
        else:
            make_immutable(path, 1, share.read_share_data(0, share.get_length()), leases)
        os.remove(old)


def describe(root):
    shares = {}
    for path in containers(root):
        share = get_share_file(path)
        length = share.get_length()
        mutable = share.sharetype == "mutable"
        data = share.readv([(0, length)])[0] if mutable else share.read_share_data(0, length)
        shares[os.path.relpath(path, os.path.join(root, "shares"))] = {
            "type": share.sharetype,
            "version": share._schema.version,
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "leases": sorted(info.get_expiration_time() for info in share.get_leases()),
        }
    print(json.dumps(shares))


def main():
    {"make": make, "downgrade": downgrade, "describe": describe}[sys.argv[1]](sys.argv[2])


main()
