//! Texts of users that a record holds are measured before anything is sent.

use super::{Failure, FailureKind};
use crate::format::limits::{BY_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Whether a record can hold a message. Control characters take six bytes in a record's line, and all of that line has 256 KiB.
///
/// # Errors
/// [`FailureKind::Usage`], before anything is sent.
pub fn check_message(message: &str) -> Result<(), Failure> {
    check_text("the message", message, MESSAGE_BYTES_MAX)
}

/// The same of the name of who publishes.
///
/// # Errors
/// As [`check_message`].
pub fn check_publisher(by: &str) -> Result<(), Failure> {
    check_text("the name of who publishes (--by)", by, BY_BYTES_MAX)
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Failure> {
    let in_json = |letter: char| match letter {
        '"' | '\\' => 2,
        letter if letter.is_control() => 6,
        letter => letter.len_utf8(),
    };
    let written: usize = text.chars().map(in_json).sum();
    if text.len() <= bytes_max && written <= 2 * bytes_max {
        return Ok(());
    }
    let told = match text.len() <= bytes_max {
        true => format!("{what} has so many control characters that they take {written} bytes in a record"),
        false => format!("{what} has {} bytes", text.len()),
    };
    let text = format!("{told}: at most {bytes_max} fit into a record; nothing was published");
    Err(Failure::new(FailureKind::Usage, text).hint("put long texts into a file of the volume"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_measured_as_a_record_holds_them() {
        for (message, fits) in [
            ("m".repeat(MESSAGE_BYTES_MAX), true),
            ("m".repeat(MESSAGE_BYTES_MAX + 1), false),
            ("\u{e9}".repeat(MESSAGE_BYTES_MAX / 2), true),
            ("\u{e9}".repeat(MESSAGE_BYTES_MAX / 2 + 1), false),
            ("\n".repeat(20_000), true),
            ("\0".repeat(MESSAGE_BYTES_MAX / 2), false),
        ] {
            assert_eq!(check_message(&message).is_ok(), fits, "{} bytes", message.len());
        }
    }
}
