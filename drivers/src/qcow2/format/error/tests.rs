use super::*;

#[test]
fn corruption_is_an_io_error_and_keeps_its_words() {
    let error = Qcow2Error::EntryNotAligned {
        what: Table::L2,
        at: 3,
        offset: 66048,
    };
    assert_eq!(error.errno(), Errno::IO);
    let block = error.during(Op::Read, 5, 7);
    assert_eq!((block.offset, block.len, block.errno()), (5, 7, Errno::IO));
    let words = format!("{block:#}");
    assert!(
        words.contains("L2 table offset 0x10200 for 3 is not aligned"),
        "{words}"
    );
}

#[test]
fn an_error_of_the_file_keeps_its_cause() {
    let below = BlockError::new(Op::Read, 1, 2, Cause::Os(Errno::NOSPC));
    let error = io(Table::L1)(below);
    assert_eq!(error.errno(), Errno::NOSPC);
    assert_eq!(Cause::from(error), Cause::Os(Errno::NOSPC));
}

#[test]
fn a_feature_is_refused_by_the_name_that_the_image_gives_it() {
    let error = Qcow2Error::IncompatibleFeatures {
        features: vec![
            Feature {
                bit: 40,
                name: Some("time travel".into()),
            },
            Feature {
                bit: 41,
                name: None,
            },
        ],
    };
    let words = error.to_string();
    assert!(words.contains("time travel (bit 40), unknown feature (bit 41)"));
    assert_eq!(error.errno(), Errno::NOTSUP);
}
