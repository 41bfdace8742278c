//! Writes the fields of an event in the log's text format: `name=value`. A value is quoted if it holds more than word
//! characters, so that it cannot look like another field or begin a line.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::sanitize;

thread_local! {
    /// Scratch space to format a value before it is known whether it needs quotes; kept per thread, to save an
    /// allocation for each field.
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The maximum memory, in bytes, that a thread's scratch space keeps after a long value.
const SCRATCH_KEPT: usize = 4096;

/// Formats the fields of text lines.
#[derive(Debug)]
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

/// Whether a value with this byte needs no quotes: the characters of names, numbers, addresses, paths and durations.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:/[]@%+,~#".contains(&byte)
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    /// Writes the name and the equals sign, and then the value with `value`.
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.result.is_ok() {
            self.result = self.name(field.name()).and_then(|()| value(&mut self.writer));
        }
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.writer.write_char(' ')?;
        }
        match name {
            "message" => Ok(()),
            // Italic and dimmed (ECMA-48, 8.3.117), as in the library.
            _ if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")
            }
            _ => {
                self.writer.write_str(name)?;
                self.writer.write_char('=')
            }
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let message = field.name() == "message";
        // Strings are always quoted: readers may rely on it.
        self.field(field, |writer| {
            if message { writer.write_str(&sanitize::line(value)) } else { quoted(writer, value) }
        });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, |writer| write!(writer, "{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let message = field.name() == "message";
        self.field(field, |writer| {
            formatted(value, |text| {
                if message {
                    writer.write_str(&sanitize::line(text))
                } else if !text.is_empty() && text.bytes().all(is_word) {
                    writer.write_str(text)
                } else {
                    quoted(writer, text)
                }
            })
        });
    }
}

/// Passes the text of `value` to `use_it`.
fn formatted(value: &dyn Debug, use_it: impl FnOnce(&str) -> fmt::Result) -> fmt::Result {
    SCRATCH.with(|scratch| {
        // A value that logs while it is formatted finds the scratch space in use.
        let Ok(mut text) = scratch.try_borrow_mut() else { return use_it(&format!("{value:?}")) };
        text.clear();
        let result = write!(text, "{value:?}").and_then(|()| use_it(&text));
        if text.capacity() > SCRATCH_KEPT {
            *text = String::new();
        }
        result
    })
}

/// The text in quotes, as Rust writes it: all invisible characters are escaped.
fn quoted(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    write!(writer, "{text:?}")
}

/// Removes the quotes of a value at the beginning of a text: returns the value and the rest. A value without quotes
/// ends at a space.
pub fn value(text: &str) -> (std::borrow::Cow<'_, str>, &str) {
    use std::borrow::Cow;
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        return (Cow::Borrowed(&text[..end]), &text[end..]);
    };
    let mut value = String::new();
    let mut rest = inside.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => value.extend(unescaped(&mut rest)),
            c => value.push(c),
        }
    }
    (Cow::Owned(value), rest.as_str())
}

/// The character of a Rust escape whose backslash was read.
fn unescaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    match rest.next()? {
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        '0' => Some('\0'),
        'u' => {
            let (hex, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
            *rest = after.chars();
            char::from_u32(u32::from_str_radix(hex, 16).ok()?)
        }
        c => Some(c),
    }
}

#[cfg(test)]
#[path = "log_fields_tests.rs"]
mod tests;
