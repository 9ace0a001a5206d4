//! Banana: whatever the bytes, and however they are cut, they are read or refused, and what is read is written and read
//! again as the same.

#![no_main]

use bytes::{Bytes, BytesMut};
use leasehold_foolscap::slicer::{Arguments, Slicer};
use leasehold_foolscap::unslicer::{Objects, Step, Unslicer};
use leasehold_foolscap::{
    Argument, Constraint, Interface, LocalReference, Method, RemoteReference, SizeLimits, Violation, Vocabulary,
};
use libfuzzer_sys::fuzz_target;

const PAIR: Constraint = Constraint::Tuple(&[Constraint::Integer { bytes_max: 8 }, Constraint::Bytes { min: 0, max: 99 }]);

static INTERFACE: Interface = Interface {
    name: "RIFuzzed",
    methods: &[
        Method { name: "any", arguments: &[Argument { name: "any", takes: Constraint::Any }] },
        Method {
            name: "pairs",
            arguments: &[
                Argument { name: "pairs", takes: Constraint::List { of: &PAIR, count_max: 9 } },
                Argument { name: "set", takes: Constraint::Set { of: &Constraint::Any, count_max: 9 } },
            ],
        },
    ],
};

/// Every number is an object's, every answer is waited for.
struct Everything;

impl Objects for Everything {
    fn interface(&self, _: u64) -> Option<&'static Interface> {
        Some(&INTERFACE)
    }

    fn local(&self, _: u64) -> Option<LocalReference> {
        None
    }

    fn remote(&self, _: u64, _: Option<Bytes>) -> Result<RemoteReference, Violation> {
        Err(Violation::new("no references here"))
    }

    fn is_unanswered(&self, _: u64) -> bool {
        false
    }

    fn awaited(&self, _: u64) -> Option<&'static Constraint> {
        Some(&Constraint::Any)
    }
}

fn read(bytes: &[u8], cut: usize) -> Option<Vec<Step>> {
    let limits = SizeLimits { call_bytes_max: 1 << 20, ..SizeLimits::default() };
    let mut unslicer = Unslicer::new(Vocabulary::Words, limits);
    let (mut input, mut steps) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        input.extend_from_slice(piece);
        while let Some(step) = unslicer.step(&mut input, &Everything).ok()? {
            match step {
                Step::Reserve(bytes) => unslicer.grant(bytes),
                step => steps.push(step),
            }
        }
    }
    Some(steps)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, usize::MAX);
    let pieces = read(bytes, usize::from(*cut) + 1);
    // Floats that are no numbers differ from themselves.
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    for step in whole.into_iter().flatten() {
        let Step::Call(call) = step else { continue };
        let mut slicer = Slicer::new(Vocabulary::Words);
        let arguments = Arguments { positional: &call.arguments, named: &[] };
        slicer.call(call.request, call.clid, call.method, &arguments, &mut |_| unreachable!("no objects here"));
        let again = read(&slicer.take().concat(), usize::MAX).expect("what we write is read");
        match &again[..] {
            [Step::Call(second)] => {
                assert_eq!(format!("{:?}", second.arguments), format!("{:?}", call.arguments));
            }
            // Shared parts are written out, which may be more than a call may hold, and so may a reference's depth.
            [Step::CallViolated { .. }] => {}
            other => panic!("{other:?}"),
        }
    }
});
