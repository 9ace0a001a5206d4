//! Odd CBOR bodies: the cases of the recorded vectors and some more, each once.

use data_encoding::HEXLOWER;

use crate::world::{Place, Step, World};
use leasehold_e2e::gbs::cbor::{self, Encoder};
use leasehold_e2e::gbs::{Request, SecretKind};

/// Bodies that are odd, each once and on a storage index of its own.
pub fn fixed(world: &mut World) -> Vec<Step> {
    let mut steps = Vec::new();
    for (body, tag) in allocate_bodies() {
        let request = Request::new("POST", format!("/storage/v1/immutable/{}", world.fresh_index()))
            .lease_secrets(&world.leases[0])
            .secret(SecretKind::Upload, &[1])
            .accept_cbor()
            .cbor(body);
        steps.push(Step::new(request, Place::None).tagged(tag));
    }
    for (body, tag) in read_test_write_bodies() {
        let request = Request::new("POST", format!("/storage/v1/mutable/{}/read-test-write", world.fresh_index()))
            .lease_secrets(&world.leases[0])
            .secret(SecretKind::WriteEnabler, &[1; 32])
            .accept_cbor()
            .cbor(body);
        steps.push(Step::new(request, Place::None).tagged(tag));
    }
    steps.extend(corrupt_steps(world));
    steps
}

fn allocate_bodies() -> Vec<(Vec<u8>, &'static str)> {
    let numbers: Vec<u64> = (0..257).collect();
    let body = |shares: &dyn Fn(&mut Encoder), size: &dyn Fn(&mut Encoder)| {
        let mut encoder = Encoder::default();
        encoder.map(2).text("share-numbers");
        shares(&mut encoder);
        encoder.text("allocated-size");
        size(&mut encoder);
        encoder.0
    };
    let one = |e: &mut Encoder| {
        e.set(&[1]);
    };
    let small = |e: &mut Encoder| {
        e.uint(1);
    };
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).expect("a constant");
    vec![
        (cbor::allocate(&numbers[..256], 1), ""),
        (cbor::allocate(&numbers, 1), ""),
        (cbor::allocate(&[1, 1], 1), ""),
        (cbor::allocate(&[300, 1 << 40], 1), "share number above 255"),
        (cbor::allocate(&[u64::MAX], 1), "share number above 255"),
        (
            body(
                &|e| {
                    e.array(1).uint(1);
                },
                &small,
            ),
            "",
        ),
        (
            body(
                &|e| {
                    e.tag(259).array(1).uint(1);
                },
                &small,
            ),
            "",
        ),
        (
            body(
                &|e| {
                    e.tag(258).array(1).head(1, 0);
                },
                &small,
            ),
            "",
        ),
        (
            body(&one, &|e| {
                e.head(1, 0);
            }),
            "",
        ),
        (body(&one, &|e| e.0.extend([0xf9, 0x3c, 0x00])), ""),
        (body(&one, &|e| e.0.extend([0xc2, 0x49, 1, 0, 0, 0, 0, 0, 0, 0, 0])), "bignum"),
        (body(&one, &|e| e.0.extend([0xc2, 0x41, 1])), "bignum"),
        (
            body(&one, &|e| {
                e.text("1");
            }),
            "",
        ),
        (body(&one, &|e| e.0.push(0xf6)), ""),
        // Indefinite lengths, integers longer than need be, a key twice.
        (hex("bf6d73686172652d6e756d62657273d901029f01ff6e616c6c6f63617465642d73697a6504ff"), ""),
        (hex("a26d73686172652d6e756d62657273d901028118016e616c6c6f63617465642d73697a651b0000000000000004"), ""),
        (
            hex(
                "a36d73686172652d6e756d62657273d9010281016e616c6c6f63617465642d73697a65046e616c6c6f63617465642d73697a6505",
            ),
            "a key twice",
        ),
        ([vec![0x81; 3000], vec![0]].concat(), ""),
        (vec![0x81; 8192], ""),
        (vec![0x81; 8193], ""),
        ([cbor::allocate(&[1], 1), vec![0]].concat(), "bytes after the end of a body"),
        (Vec::new(), ""),
        (vec![0xa0], ""),
        (vec![0xff], ""),
        (vec![0xbf], ""),
        (vec![0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], ""),
        (vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], ""),
        (vec![0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], ""),
    ]
}

fn read_test_write_bodies() -> Vec<(Vec<u8>, &'static str)> {
    let share =
        |number: &dyn Fn(&mut Encoder), tests: &dyn Fn(&mut Encoder), writes: &dyn Fn(&mut Encoder), length: &[u8]| {
            let mut e = Encoder::default();
            e.map(2).text("test-write-vectors").map(1);
            number(&mut e);
            e.map(3).text("test");
            tests(&mut e);
            e.text("write");
            writes(&mut e);
            e.text("new-length");
            e.0.extend(length);
            e.text("read-vector").array(0);
            e.0
        };
    let zero = |e: &mut Encoder| {
        e.uint(0);
    };
    let none = |e: &mut Encoder| {
        e.array(0);
    };
    let tests = |count: usize| {
        move |e: &mut Encoder| {
            e.array(count);
            for _ in 0..count {
                e.map(3).text("offset").uint(0).text("size").uint(1).text("specimen").bytes(b"");
            }
        }
    };
    let null: &[u8] = &[0xf6];
    let extra_in_test = |e: &mut Encoder| {
        e.array(1).map(4).text("offset").uint(0).text("size").uint(1).text("specimen").bytes(b"").text("x").uint(1);
    };
    let extra_in_write = |e: &mut Encoder| {
        e.array(1).map(3).text("offset").uint(0).text("data").bytes(b"a").text("x").uint(1);
    };
    let text_data = |e: &mut Encoder| {
        e.array(1).map(2).text("offset").uint(0).text("data").text("a");
    };
    let many_writes = |e: &mut Encoder| {
        e.array(100);
        for _ in 0..100 {
            e.map(2).text("offset").uint(0).text("data").bytes(b"");
        }
    };
    let reads =
        |count: usize| cbor::read_test_write(&cbor::ReadTestWrite { shares: Vec::new(), reads: vec![(0, 1); count] });
    let shares = |count: u64| {
        let shares = (0..count).map(|number| (number, cbor::TestWrite::default())).collect();
        cbor::read_test_write(&cbor::ReadTestWrite { shares, reads: Vec::new() })
    };
    vec![
        (share(&zero, &tests(30), &none, null), ""),
        (share(&zero, &tests(31), &none, null), ""),
        (share(&zero, &none, &many_writes, null), ""),
        (share(&zero, &extra_in_test, &none, null), "additional key in an entry"),
        (share(&zero, &none, &extra_in_write, null), "additional key in an entry"),
        (share(&zero, &none, &text_data, null), ""),
        (share(&zero, &none, &none, &[0x20]), ""),
        (share(&zero, &none, &none, &[0xf7]), "undefined for null"),
        (share(&zero, &none, &none, &[0x80]), ""),
        (
            share(
                &|e| {
                    e.text("0");
                },
                &none,
                &none,
                null,
            ),
            "share number that is no number",
        ),
        (
            share(
                &|e| {
                    e.head(1, 0);
                },
                &none,
                &none,
                null,
            ),
            "share number that is no number",
        ),
        (
            share(
                &|e| {
                    e.bytes(b"0");
                },
                &none,
                &none,
                null,
            ),
            "share number that is no number",
        ),
        (
            share(
                &|e| {
                    e.uint(1 << 40);
                },
                &none,
                &none,
                null,
            ),
            "share number above 255",
        ),
        (reads(30), ""),
        (reads(31), ""),
        (shares(256), ""),
        (shares(257), ""),
        ([shares(1), vec![0]].concat(), "bytes after the end of a body"),
        (vec![0xa0], ""),
        ([vec![0x81; 3000], vec![0]].concat(), ""),
    ]
}

/// Reports on shares that were stored for it.
fn corrupt_steps(world: &mut World) -> Vec<Step> {
    let index = world.fresh_index();
    let vectors = cbor::ReadTestWrite { shares: vec![(3, cbor::TestWrite::default())], reads: Vec::new() };
    let store = Request::new("POST", format!("/storage/v1/mutable/{index}/read-test-write"))
        .lease_secrets(&world.leases[0])
        .secret(SecretKind::WriteEnabler, &[1; 32])
        .accept_cbor()
        .cbor(cbor::read_test_write(&vectors));
    let mut steps = vec![Step::new(store, Place::None)];
    let mut body = |bytes: Vec<u8>, tag| {
        let request = Request::new("POST", format!("/storage/v1/mutable/{index}/3/corrupt")).cbor(bytes);
        steps.push(Step::new(request, Place::None).tagged(tag));
    };
    for length in [0, 1, 32757, 32758, 32765, 32766] {
        body(cbor::corrupt(&"x".repeat(length)), "");
    }
    let mut bytes = Encoder::default();
    bytes.map(1).text("reason").bytes(b"x");
    body(bytes.0, "reason as bytes");
    let mut additional = Encoder::default();
    additional.map(2).text("reason").text("x").text("y").uint(1);
    body(additional.0, "");
    body(vec![0xa1, 0x66, b'r', b'e', b'a', b's', b'o', b'n', 0x61, 0xff], "text that is not UTF-8");
    steps
}
