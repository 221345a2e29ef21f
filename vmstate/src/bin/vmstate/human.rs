//! Sizes, dates and clocks as qemu-img prints them.
use block_core::SnapshotInfo;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes with three digits and the largest unit that leaves a number below 1000: QEMU's `size_to_str`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1000.0 && unit + 1 < units.len() {
        number /= 1024.0;
        unit += 1;
    }
    let digits = match number {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text} {}B", units[unit])
}

/// What is printed of snapshots, one a line, as `qemu-img snapshot -l` of QEMU 10 does; dates are local. Nothing where there are none.
pub(crate) fn snapshots(snapshots: &[SnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return String::new();
    }
    let zone = TimeZone::system();
    let mut text = String::from("Snapshot list:\n");
    let head = ["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"].map(str::to_owned);
    text.push_str(&row(&head));
    for snapshot in snapshots {
        text.push_str(&row(&[
            line(&snapshot.id),
            line(&snapshot.name),
            size(snapshot.vmstate_size),
            date(snapshot.date_sec, &zone),
            clock(snapshot.vm_clock_nsec),
            snapshot
                .icount
                .map_or_else(|| "--".to_owned(), |count| count.to_string()),
        ]));
    }
    text
}

/// Text of an image in one line, and without what a terminal would do something about.
pub(crate) fn line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?")
}

fn row([id, tag, size, date, clock, icount]: &[String; 6]) -> String {
    format!("{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}\n")
}

fn date(seconds: u32, zone: &TimeZone) -> String {
    match Timestamp::from_second(seconds.into()) {
        Ok(time) => zone
            .to_datetime(time)
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => seconds.to_string(), // no number of 32 bits is out of jiff's range
    }
}

fn clock(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    format!(
        "{:04}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        nanoseconds / 1_000_000 % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_as_qemus() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1 KiB"),
            (596_244, "582 KiB"),
            (1 << 20, "1 MiB"),
            (1_500_000, "1.43 MiB"),
            (10_474_000, "9.99 MiB"),
            (10_480_000, "9.99 MiB"),
            (10_484_000, "10 MiB"),
            (104_856_000, "100 MiB"),
            (1_796_483_171, "1.67 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_snapshot_is_a_line_of_columns() {
        let info = SnapshotInfo {
            id: "12".to_owned(),
            name: "a\nname".to_owned(),
            vmstate_size: 596_244,
            date_sec: 1_795_505_872,
            vm_clock_nsec: 3_600_000_000_000 * 1234 + 61_020_999_999,
            icount: Some(5),
            ..SnapshotInfo::default()
        };
        assert_eq!(date(info.date_sec, &TimeZone::UTC), "2026-11-24 07:37:52");
        assert_eq!(date(u32::MAX, &TimeZone::UTC), "2106-02-07 06:28:15");
        let text = snapshots(std::slice::from_ref(&info));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1],
            "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT"
        );
        assert!(lines[2].starts_with("12      a?name            582 KiB "));
        assert!(lines[2].ends_with("  1234:01:01.020          5"));
        assert_eq!(lines[2].len(), lines[1].len());
        let none = SnapshotInfo {
            icount: None,
            ..info
        };
        assert!(snapshots(&[none]).ends_with("         --\n"));
        assert_eq!(snapshots(&[]), "");
    }
}
