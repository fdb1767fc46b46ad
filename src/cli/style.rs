//! Colours, on terminals only, and what must never reach a terminal.
//!
//! Texts are put together with marks (characters that are none, U+FDD0 and its neighbours) instead of a terminal's own
//! sequences. [`finish`] turns them into colours or drops them, after everything else that a terminal would obey has been
//! made readable: names, messages and what stores say come from others.

use std::io::IsTerminal;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Heads of tables.
    Head,
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Wrong.
    Bad,
}

const END: char = '\u{fdd0}';

impl Tone {
    const ALL: [Tone; 4] = [Tone::Head, Tone::Good, Tone::Warning, Tone::Bad];

    const fn mark(self) -> char {
        match self {
            Tone::Head => '\u{fdd1}',
            Tone::Good => '\u{fdd2}',
            Tone::Warning => '\u{fdd3}',
            Tone::Bad => '\u{fdd4}',
        }
    }

    const fn sequence(self) -> &'static str {
        match self {
            Tone::Head => "\x1b[1m",
            Tone::Good => "\x1b[32m",
            Tone::Warning => "\x1b[33m",
            Tone::Bad => "\x1b[1;31m",
        }
    }

    /// A piece of text in this tone.
    pub fn paint(self, text: &str) -> String {
        format!("{}{text}{END}", self.mark())
    }
}

/// True for a mark, which takes no place.
pub fn is_mark(letter: char) -> bool {
    letter == END || Tone::ALL.iter().any(|tone| tone.mark() == letter)
}

/// Whether colours are wanted on a stream: it is a terminal that has some, and `NO_COLOR` (no-color.org) is not set.
pub fn wanted(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Text as it goes to a stream: lines stay lines, marks become colours or nothing, all other control characters are shown.
pub fn finish(text: &str, colours: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\t' => out.push(letter),
            END if colours => out.push_str("\x1b[0m"),
            letter if is_mark(letter) => {
                let tone = Tone::ALL.iter().find(|tone| tone.mark() == letter);
                out.push_str(tone.filter(|_| colours).map_or("", |tone| tone.sequence()));
            }
            letter if letter.is_control() => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    out.push_str(&format!("\\x{byte:02x}"));
                }
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_colours_and_what_others_wrote_becomes_text() {
        let text = format!("{} \x1b[31mmine\x07\r\n\tb", Tone::Bad.paint("no"));
        assert_eq!(finish(&text, false), "no \\x1b[31mmine\\x07\\x0d\n\tb");
        assert_eq!(
            finish(&text, true),
            "\x1b[1;31mno\x1b[0m \\x1b[31mmine\\x07\\x0d\n\tb"
        );
        assert_eq!(finish("\u{9b}1m", true), "\\xc2\\x9b1m");
    }
}
