//! The remote interfaces of Tahoe-LAFS storage as tables: what is refused before it is stored (`foolscap.md` 14).

use leasehold_foolscap::{Argument, Constraint, Interface, Method};

/// The longest reason of a corruption report, in bytes: as over HTTPS.
const REASON_MAX: usize = 32_765;
/// The most share data in one string, in bytes.
const SHARE_DATA_MAX: usize = 64 << 20;
/// Share numbers are 0 to 255.
const SHARES_MAX: usize = 256;
/// How many places of each share one call may read.
const READS_MAX: usize = 1000;
/// How many tests, or writes, one call may have for a share; clients write one for each segment of a file.
const VECTORS_MAX: usize = 16_384;

const STORAGE_INDEX: Constraint = Constraint::Bytes { min: 16, max: 16 };
const SECRET: Constraint = Constraint::Bytes { min: 32, max: 32 };
const SHARE_DATA: Constraint = Constraint::Bytes { min: 0, max: SHARE_DATA_MAX };
const REASON: Constraint = Constraint::Bytes { min: 0, max: REASON_MAX };
const OFFSET: Constraint = Constraint::Integer { bytes_max: 8 };
const INTEGER: Constraint = Constraint::Integer { bytes_max: 1024 };
const READS: Constraint = Constraint::List { of: &Constraint::Tuple(&[OFFSET, INTEGER]), count_max: READS_MAX };
const TESTS: Constraint = Constraint::List {
    of: &Constraint::Tuple(&[OFFSET, INTEGER, Constraint::Bytes { min: 0, max: 2 }, SHARE_DATA]),
    count_max: VECTORS_MAX,
};
const WRITES: Constraint = Constraint::List { of: &Constraint::Tuple(&[OFFSET, SHARE_DATA]), count_max: VECTORS_MAX };
const NEW_LENGTH: Constraint = Constraint::OneOf(&[Constraint::None, OFFSET]);

const fn argument(name: &'static str, takes: Constraint) -> Argument {
    Argument { name, takes }
}

const INDEX: Argument = argument("storage_index", STORAGE_INDEX);

/// What clients call a storage server.
pub(super) static STORAGE_SERVER: Interface = Interface {
    name: "RIStorageServer.tahoe.allmydata.com",
    methods: &[
        Method { name: "get_version", arguments: &[] },
        Method {
            name: "allocate_buckets",
            arguments: &[
                INDEX,
                argument("renew_secret", SECRET),
                argument("cancel_secret", SECRET),
                argument("sharenums", Constraint::Set { of: &INTEGER, count_max: SHARES_MAX }),
                argument("allocated_size", OFFSET),
                argument("canary", Constraint::Remote),
            ],
        },
        Method {
            name: "add_lease",
            arguments: &[INDEX, argument("renew_secret", SECRET), argument("cancel_secret", SECRET)],
        },
        Method { name: "get_buckets", arguments: &[INDEX] },
        Method {
            name: "slot_readv",
            arguments: &[
                INDEX,
                argument("shares", Constraint::List { of: &INTEGER, count_max: SHARES_MAX }),
                argument("readv", READS),
            ],
        },
        Method {
            name: "slot_testv_and_readv_and_writev",
            arguments: &[
                INDEX,
                argument("secrets", Constraint::Tuple(&[SECRET, SECRET, SECRET])),
                argument(
                    "tw_vectors",
                    Constraint::Dict {
                        key: &INTEGER,
                        value: &Constraint::Tuple(&[TESTS, WRITES, NEW_LENGTH]),
                        count_max: SHARES_MAX,
                    },
                ),
                argument("r_vector", READS),
            ],
        },
        Method {
            name: "advise_corrupt_share",
            arguments: &[
                argument("share_type", Constraint::Bytes { min: 0, max: 9 }),
                INDEX,
                argument("shnum", INTEGER),
                argument("reason", REASON),
            ],
        },
    ],
};

/// A share that is being uploaded.
pub(super) static BUCKET_WRITER: Interface = Interface {
    name: "RIBucketWriter",
    methods: &[
        Method { name: "write", arguments: &[argument("offset", OFFSET), argument("data", SHARE_DATA)] },
        Method { name: "close", arguments: &[] },
        Method { name: "abort", arguments: &[] },
    ],
};

/// A finished immutable share.
pub(super) static BUCKET_READER: Interface = Interface {
    name: "RIBucketReader",
    methods: &[
        Method { name: "read", arguments: &[argument("offset", OFFSET), argument("length", INTEGER)] },
        Method { name: "advise_corrupt_share", arguments: &[argument("reason", REASON)] },
    ],
};
