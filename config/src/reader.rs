// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the parts of `rdma.toml` are read with.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::DeValue;

use crate::Warning;
use crate::dropin::Fragment;

/// A key, and where it stands.
pub(crate) type Key<'a> = Spanned<Cow<'a, str>>;
/// A value, and where it stands.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// Reads one fragment; every value that cannot be used is a warning and changes nothing.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) fragment: &'a Fragment,
    pub(crate) warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    pub(crate) fn unknown(&mut self, key: &Key<'_>, name: &str) {
        self.warn(key.span().start, format!("{name} is not known, ignoring it"));
    }

    pub(crate) fn wrong(&mut self, value: &Value<'_>, key: &str, expected: &str) {
        self.warn(value.span().start, format!("{key} must be {expected}, ignoring it"));
    }

    pub(crate) fn warn(&mut self, at: usize, what: impl Into<String>) {
        let line = self.line(at);
        let before = self.fragment.text.get(..at).unwrap_or_default();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let warning = Warning::new(&self.fragment.path, Some(line), what);
        self.warnings.push(Warning { column: Some(column), ..warning });
    }

    pub(crate) fn line(&self, at: usize) -> usize {
        let before = self.fragment.text.as_bytes().get(..at).unwrap_or_default();
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    /// What was read, or a warning that it could not be.
    pub(crate) fn or_wrong<T>(
        &mut self,
        read: Option<T>,
        value: &Value<'_>,
        key: &str,
        expected: &str,
    ) -> Option<T> {
        if read.is_none() {
            self.wrong(value, key, expected);
        }
        read
    }

    /// One of the words of a table.
    pub(crate) fn word<T: Copy>(
        &mut self,
        value: &Value<'_>,
        key: &str,
        table: &[(&str, T)],
    ) -> Option<T> {
        let word = value.get_ref().as_str();
        let found = table.iter().find(|(known, _)| word == Some(*known)).map(|(_, of)| *of);
        if found.is_none() {
            self.wrong(value, key, &format!("one of {}", words(table)));
        }
        found
    }
}

/// The words of a table, for a message.
pub(crate) fn words<T>(table: &[(&str, T)]) -> String {
    table.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
}

/// A string, or a list of strings.
pub(crate) fn strings(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(word) => Some(vec![word.to_string()]),
        DeValue::Array(words) => {
            words.iter().map(|w| w.get_ref().as_str().map(str::to_owned)).collect()
        }
        _ => None,
    }
}
