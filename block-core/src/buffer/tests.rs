use super::*;
use std::collections::VecDeque;

fn numbered(len: usize, alignment: usize) -> IoBuf {
    let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
    IoBuf::copy_of(&bytes, alignment).expect("small")
}

#[test]
fn new_memory_is_zero_and_aligned_at_every_power_of_two() {
    for shift in 0..=21 {
        let alignment = 1 << shift;
        let buf = IoBuf::zeroed(777, alignment).expect("small");
        assert!(buf.is_aligned(alignment) && buf.iter().all(|b| *b == 0));
        assert!(numbered(777, alignment).is_aligned(alignment));
    }
}

#[test]
fn an_impossible_layout_is_an_error_and_not_a_panic() {
    for (len, alignment) in [
        (8, 0),
        (8, 3),
        (0, 0),
        (0, 48),
        (usize::MAX, 1),
        (isize::MAX as usize, 4096),
        (1, usize::MAX),
    ] {
        assert_eq!(
            IoBuf::zeroed(len, alignment).err(),
            Some(AllocError { bytes: len }),
            "{len} {alignment}"
        );
    }
    assert_eq!(
        IoBuf::copy_of(b"abc", 12).err(),
        Some(AllocError { bytes: 3 })
    );
}

#[test]
#[cfg_attr(miri, ignore = "Miri ends where memory cannot be had")]
fn memory_that_cannot_be_had_is_an_error_and_not_an_abort() {
    let bytes = isize::MAX as usize - 4096; // more than any address space, yet a possible layout
    assert_eq!(IoBuf::zeroed(bytes, 4096).err(), Some(AllocError { bytes }));
}

#[test]
fn an_empty_buffer_holds_nothing_and_joins_with_any() {
    let mut buf = IoBuf::zeroed(0, 4096).expect("empty");
    assert!(buf.memory.is_none() && buf.is_empty() && buf.is_aligned(4096));
    assert_eq!((&*buf, &mut *IoBuf::empty()), (&[][..], &mut [][..]));
    buf.unsplit(numbered(4, 1)).expect("nothing before it");
    buf.unsplit(IoBuf::empty()).expect("nothing past it");
    assert_eq!(*buf, [0, 1, 2, 3]);
    assert!(
        buf.split_to(0).memory.is_none(),
        "an empty piece must not keep the memory from being recycled"
    );
    assert!(buf.freeze().slice(2..2).memory.is_none());
}

#[test]
fn pieces_are_filled_apart_and_joined_without_a_copy() {
    let mut rest = numbered(10, 512);
    let at = rest.as_mut_ptr() as usize;
    let mut front = rest.split_to(4);
    let mut middle = rest.split_to(3);
    let back = rest;
    front.fill(b'f');
    middle.fill(b'm');
    assert_eq!((front.len(), middle.len(), &*back), (4, 3, &[7, 8, 9][..]));
    let back = front.unsplit(back).expect_err("the middle is missing");
    front.unsplit(middle).expect("they are neighbours");
    front.unsplit(back).expect("they are neighbours");
    assert_eq!(*front, *b"ffffmmm\x07\x08\x09");
    assert_eq!(front.as_mut_ptr() as usize, at);
}

#[test]
fn neighbours_of_two_allocations_are_not_joined() {
    let mut one = numbered(8, 8);
    let other = one
        .unsplit(numbered(8, 8))
        .expect_err("another allocation, wherever it lies");
    assert_eq!((one.len(), other.len()), (8, 8));
}

#[test]
fn a_truncated_buffer_keeps_its_memory_and_gets_it_back() {
    let mut buf = numbered(10, 1);
    buf.truncate(4);
    buf.truncate(7);
    assert_eq!((buf.len(), buf.capacity()), (4, 10));
    let front = buf.split_to(99);
    assert_eq!(
        (&*front, front.capacity(), buf.len(), buf.capacity()),
        (&[0, 1, 2, 3][..], 4, 0, 6)
    );
    buf.restore();
    assert_eq!(*buf, [4, 5, 6, 7, 8, 9]);
    let mut cut = front;
    cut.truncate(3);
    let buf = cut.unsplit(buf).expect_err("byte 3 lies between them");
    cut.restore();
    cut.unsplit(buf).expect("now they are neighbours");
    assert_eq!(cut.len(), 10);
}

#[test]
fn a_frozen_buffer_comes_back_for_writing_when_the_last_view_is_gone() {
    let mut buf = numbered(10, 1);
    buf.truncate(6);
    let view = buf.freeze();
    let slice = view.slice(2..4);
    assert_eq!(*slice, [2, 3]);
    let view = view.try_into_mut().expect_err("a view of it is alive");
    drop(slice);
    let mut buf = view.try_into_mut().expect("the last one");
    assert_eq!((buf.len(), buf.capacity()), (6, 10));
    buf.restore();
    assert_eq!(*buf, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_view_beside_a_writable_piece_cannot_be_turned_into_memory_of_both() {
    let mut rest = numbered(10, 1);
    let view = rest.split_to(5).freeze();
    let view = view
        .try_into_mut()
        .expect_err("the other half can still be written");
    drop(rest);
    assert_eq!(view.try_into_mut().expect("alone now").capacity(), 10);
}

#[test]
fn a_slice_is_cut_to_its_view() {
    let view = numbered(10, 1).freeze().slice(2..8);
    assert_eq!(*view.slice(4..99), [6, 7]);
    #[allow(
        clippy::reversed_empty_ranges,
        reason = "a caller's mistake must not panic"
    )]
    let reversed = view.slice(5..3);
    assert!(
        reversed.is_empty()
            && view.slice(7..9).is_empty()
            && view.slice(usize::MAX..usize::MAX).is_empty()
    );
}

#[test]
fn an_address_inside_a_buffer_is_as_aligned_as_it_is() {
    let mut buf = numbered(4096, 4096);
    let _front = buf.split_to(512);
    assert!(buf.is_aligned(512) && !buf.is_aligned(1024));
    let view = buf.freeze();
    assert!(view.is_aligned(512) && !view.is_aligned(1024) && !view.slice(1..9).is_aligned(2));
    assert!(!view.is_aligned(0), "no address is a multiple of 0");
}

#[test]
fn buffers_cross_threads() {
    fn both<T: Send + Sync + 'static>() {}
    both::<IoBuf>();
    both::<SharedBuf>();
    let mut rest = numbered(1000, 16);
    let mut front = rest.split_to(500);
    let (front, rest) = std::thread::scope(|s| {
        let front = s.spawn(move || {
            front.fill(1);
            front.freeze()
        });
        rest.fill(2);
        (front.join().expect("filled"), rest.freeze())
    });
    assert!(front.iter().all(|b| *b == 1) && rest.iter().all(|b| *b == 2));
}

/// Random splits, joins, writes, truncations, freezes and thaws, against one `Vec<u8>` per piece.
#[test]
fn any_sequence_of_operations_equals_separate_vectors() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below.max(1) as u64) as usize
    };
    let rounds = if cfg!(miri) { 6 } else { 300 };
    let (mut joins, mut thaws) = (0, 0);
    for _ in 0..rounds {
        let len = next(200);
        let first: Vec<u8> = (0..len).map(|_| next(256) as u8).collect();
        let buf = IoBuf::copy_of(&first, 1 << next(6)).expect("small");
        // Each piece with what it must contain: the visible bytes and the truncated ones after them.
        let mut pieces = VecDeque::from([(buf, first, len)]);
        for _ in 0..60 {
            let (mut buf, mut model, mut visible) = pieces.pop_front().expect("never empty");
            match next(6) {
                0 => {
                    let at = next(visible + 5);
                    let front = buf.split_to(at);
                    let rest = model.split_off(at.min(visible));
                    pieces.push_front((buf, rest, visible - at.min(visible)));
                    (buf, visible) = (front, model.len());
                }
                1 => {
                    if let Some((other, other_model, other_visible)) = pieces.pop_front() {
                        let fits =
                            visible == model.len() || other_model.is_empty() || model.is_empty();
                        match buf.unsplit(other) {
                            Ok(()) => {
                                joins += 1;
                                assert!(fits);
                                visible += other_visible;
                                model.extend(other_model);
                            }
                            Err(other) => pieces.push_front((other, other_model, other_visible)),
                        }
                    }
                }
                2 => {
                    let value = next(256) as u8;
                    buf.fill(value);
                    model[..visible].fill(value);
                }
                3 => {
                    let to = next(visible + 2);
                    buf.truncate(to);
                    visible = visible.min(to);
                }
                4 => {
                    buf.restore();
                    visible = model.len();
                }
                _ => {
                    let same = |other: &IoBuf| match (&other.memory, &buf.memory) {
                        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                        _ => false,
                    };
                    let alone = !pieces.iter().any(|(other, ..)| same(other));
                    let view = buf.freeze();
                    assert_eq!(*view, model[..visible]);
                    match view.try_into_mut() {
                        Ok(thawed) => {
                            thaws += 1;
                            assert!(alone || visible == 0);
                            let was = model.len();
                            model.truncate(thawed.capacity());
                            // What the piece did not reach before comes back with it; its content is what some piece left there.
                            let mut all = thawed;
                            let (len, capacity) = (all.len(), all.capacity());
                            all.restore();
                            model.extend(all.iter().skip(model.len()).copied());
                            all.truncate(len);
                            assert!(capacity >= was || visible == 0);
                            buf = all;
                        }
                        Err(view) => {
                            assert!(!alone);
                            buf = IoBuf::copy_of(&view, 1).expect("small");
                            model.truncate(visible);
                        }
                    }
                }
            }
            assert_eq!((&*buf, buf.capacity()), (&model[..visible], model.len()));
            pieces.push_back((buf, model, visible));
            for (buf, model, visible) in &pieces {
                assert_eq!(**buf, model[..*visible]);
            }
        }
    }
    assert!(
        joins > 100 && thaws > 100 || cfg!(miri),
        "{joins} joins, {thaws} thaws: too few to mean anything"
    );
}
