//! The conformance suite finds what it is there for, and finds nothing in drivers that keep the contract.

#[path = "../../examples/xor/filter.rs"]
mod filter;
#[path = "../../examples/xor/naive.rs"]
mod naive;
mod plain;
mod wrong;
mod xor;

use block_core::test_disk::conformance::{Property, Report};
use std::collections::BTreeSet;
use wrong::{Fault, suite};

/// Each wrong driver, the property that must find it, and words of the sentence.
const WRONG: &[(Fault, Property, &str)] = &[
    (
        Fault::AlignmentOfThree,
        Property::Limits,
        "not a power of two",
    ),
    (
        Fault::LengthCountsWrites,
        Property::Limits,
        "length changed",
    ),
    (
        Fault::WritesHalf,
        Property::Content,
        "other bytes than were written",
    ),
    (
        Fault::OverlapsMix,
        Property::Overlaps,
        "which neither wrote",
    ),
    (
        Fault::UnorderedReadModifyWrite,
        Property::Neighbours,
        "other bytes than were written",
    ),
    (
        Fault::TruncateAddsKey,
        Property::Growth,
        "left bytes other than zero at",
    ),
    (
        Fault::TruncateDoesNothing,
        Property::Growth,
        "the length is",
    ),
    (
        Fault::ShrinkHides,
        Property::Shrinking,
        "left bytes other than zero at",
    ),
    (
        Fault::GapOfKey,
        Property::Gaps,
        "past the end left bytes other than zero at",
    ),
    (
        Fault::UnorderedGaps,
        Property::GrowthInFlight,
        "other bytes than were written",
    ),
    (
        Fault::PaddingShown,
        Property::End,
        "left bytes other than zero at",
    ),
    (
        Fault::PaddingReturns,
        Property::End,
        "left bytes other than zero at",
    ),
    (
        Fault::SwapsMemory,
        Property::Memory,
        "returned other memory",
    ),
    (
        Fault::LosesMemoryOfFailedRead,
        Property::Memory,
        "that failed returned other memory",
    ),
    (
        Fault::KeepsMemory,
        Property::Memory,
        "still held its memory",
    ),
    (Fault::SwallowsErrors, Property::Errors, "failed"),
    (Fault::OtherErrno, Property::Errors, "not the child's errno"),
    (
        Fault::ErrorTwice,
        Property::Errors,
        "a read of 131072 bytes at 0 failed",
    ),
    (
        Fault::SwallowsFlushErrors,
        Property::Errors,
        "a flush, during which call 0 of the child's flush failed, succeeded",
    ),
    (
        Fault::FailedWriteSpills,
        Property::Errors,
        "other bytes than were written",
    ),
    (Fault::ShortIsSuccess, Property::Short, "succeeded with"),
    (
        Fault::FailedGrowthKeepsLength,
        Property::Short,
        "and not between",
    ),
    (Fault::BusyForEver, Property::Dropped, "never ended"),
    (
        Fault::DropSpills,
        Property::Dropped,
        "other bytes than were written",
    ),
    (
        Fault::FlushStaysHere,
        Property::Flush,
        "a crash after a flush left",
    ),
    (
        Fault::FuaStaysHere,
        Property::Fua,
        "a crash after writes with FUA left",
    ),
    (
        Fault::ZeroesTooFew,
        Property::Zeroes,
        "left bytes other than zero at",
    ),
    (
        Fault::ZeroesTooMany,
        Property::Zeroes,
        "other bytes than were written",
    ),
    (
        Fault::UnsupportedZeroesChange,
        Property::Zeroes,
        "which is not supported",
    ),
    (
        Fault::DiscardsTooMuch,
        Property::Discard,
        "other bytes than were written",
    ),
    (
        Fault::StatusOfNothing,
        Property::Status,
        "was answered for 0 bytes",
    ),
    (Fault::StatusTooLong, Property::Status, "was answered for"),
    (
        Fault::StatusCallsDataZero,
        Property::Status,
        "but it reads as",
    ),
    (Fault::CloseForgets, Property::Close, "a close left"),
    (Fault::CloseKeepsChild, Property::Close, "still open"),
    (
        Fault::WritesReadOnly,
        Property::ReadOnly,
        "opened read-only",
    ),
    (
        Fault::ForgetsFuaWrites,
        Property::InANode,
        "other bytes than were written",
    ),
    (
        Fault::Panics,
        Property::Content,
        "the driver panicked in a write",
    ),
];

#[test]
fn each_wrong_driver_is_found_by_the_property_that_is_there_for_it() {
    for (fault, property, words) in WRONG {
        let report = suite(*fault).only(&[*property]).run();
        let found = report.findings.first();
        let sentence = found.map_or("", |finding| &finding.sentence);
        assert!(sentence.contains(words), "{fault:?}: {report}");
    }
}

#[test]
fn every_property_has_a_wrong_driver() {
    let caught: BTreeSet<Property> = WRONG.iter().map(|(_, property, _)| *property).collect();
    assert_eq!(caught, Property::ALL.iter().copied().collect());
}

#[test]
fn the_driver_without_a_fault_keeps_every_property_under_several_seeds() {
    for seed in 1..=4 {
        let report = suite(Fault::None).seed(seed).run();
        assert_eq!(report.checked, Property::ALL, "{report}");
    }
}

#[test]
fn the_same_seed_leads_to_the_same_report() {
    let run = |seed| -> Report { suite(Fault::GapOfKey).seed(seed).run() };
    assert_eq!(run(3), run(3));
    assert_ne!(
        run(3).findings,
        run(4).findings,
        "the seed chooses the ranges"
    );
}
