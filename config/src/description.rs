// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats of node descriptions (IBTA NodeDescription): `%h %d`.

/// What stands for a value in a format, and for which.
pub const DESCRIPTION_WORDS: [(&str, &str); 5] = [
    ("%h", "the name of the host, up to its first dot"),
    ("%d", "the name of the device"),
    ("%{port-guid}", "the GUID of its first port that has one"),
    ("%{serial}", "the serial number of its card (VPD)"),
    ("%{role}", "the name that a [[device]] entry gives it"),
];

/// The most that a node description has room for, in bytes.
const LENGTH: usize = 64;

/// Puts values in, each given by its word, and cuts what is too long. `%%` is a percent sign; words that are not known
/// are left out, as rdma-core does.
#[must_use]
pub fn expand_description(format: &str, value: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for part in parts(format) {
        match part {
            Part::Text(part) => text += part,
            Part::Word(word) => text += &value(word),
            Part::Unknown(_) => {}
        }
    }
    let mut length = text.len().min(LENGTH);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    text.truncate(length);
    // It is one line of a file, and read by others.
    text.replace(char::is_control, " ").trim_end().to_owned()
}

/// The words of a format that are not known.
pub fn unknown_description_words(format: &str) -> impl Iterator<Item = &str> {
    parts(format).filter_map(|part| match part {
        Part::Unknown(word) => Some(word),
        Part::Text(_) | Part::Word(_) => None,
    })
}

enum Part<'a> {
    Text(&'a str),
    Word(&'static str),
    Unknown(&'a str),
}

fn parts(format: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = format;
    std::iter::from_fn(move || {
        let word = DESCRIPTION_WORDS.iter().find(|(word, _)| rest.starts_with(word));
        let (part, length) = match (word, rest.as_bytes()) {
            (_, []) => return None,
            (Some((word, _)), _) => (Part::Word(word), word.len()),
            (None, [b'%', b'%', ..]) => (Part::Text("%"), 2),
            (None, [b'%', b'{', ..]) => {
                let length = rest.find('}').map_or(rest.len(), |end| end + 1);
                (Part::Unknown(rest.get(..length)?), length)
            }
            (None, [b'%', ..]) => {
                let next = rest.chars().nth(1).map_or(0, char::len_utf8);
                (Part::Unknown(rest.get(..1 + next)?), 1 + next)
            }
            _ => {
                let length = rest.find('%').unwrap_or(rest.len());
                (Part::Text(rest.get(..length)?), length)
            }
        };
        rest = rest.get(length..)?;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(format: &str) -> String {
        expand_description(format, |word| match word {
            "%h" => "node7".into(),
            "%d" => "rail0".into(),
            other => format!("<{}>", other.trim_matches(['%', '{', '}'])),
        })
    }

    #[test]
    fn formats() {
        for (format, expected) in [
            ("%h %d", "node7 rail0"),
            ("100%% %d", "100% rail0"),
            ("%{port-guid} %{serial}/%{role}", "<port-guid> <serial>/<role>"),
            // As rdma-core, which reads past the end for the last of these (D25).
            ("a%xb", "ab"),
            ("a%{rack}b", "ab"),
            ("a%{rack", "a"),
            ("a%\u{fc}b", "ab"),
            ("a%", "a"),
            ("\u{fc}%d\u{fc}", "\u{fc}rail0\u{fc}"),
            ("a\tb\n", "a b"),
            ("", ""),
        ] {
            assert_eq!(expanded(format), expected, "{format}");
        }
    }

    #[test]
    fn no_more_than_64_bytes() {
        assert_eq!(expanded(&"x".repeat(65)), "x".repeat(64));
        assert_eq!(expanded(&("x".repeat(63) + "\u{fc}")), "x".repeat(63));
        assert_eq!(expanded(&("%d".repeat(13))).len(), 64);
    }

    #[test]
    fn what_is_not_known() {
        let unknown: Vec<&str> =
            unknown_description_words("%h %x %{rack} %% %{role} 50%").collect();
        assert_eq!(unknown, ["%x", "%{rack}", "%"]);
    }
}
