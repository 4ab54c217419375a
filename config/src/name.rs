// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which names a device may have.

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// The kernel refuses it.
    #[error("it is empty")]
    Empty,
    /// `IB_DEVICE_NAME_MAX` is 64 with the NUL; the kernel cuts off what is longer.
    #[error("it has more than 63 characters")]
    TooLong,
    /// The name of a directory itself.
    #[error("it is a directory's own name")]
    Dots,
    /// `/` ends a path, `%` is a pattern to the kernel and to systemd, `:` parts device from port in
    /// unit names, quotes, backslashes and blanks do not survive udev rules and shells.
    #[error("it has a character that is not a letter, a digit, or one of - _ . + @ # =")]
    Character,
}

/// Checks a name before the kernel is asked, which takes anything but an empty one.
///
/// # Errors
/// Why it is refused.
pub fn check_device_name(name: &str) -> Result<(), BadName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+@#=".contains(c);
    if name.is_empty() {
        Err(BadName::Empty)
    } else if name.len() > 63 {
        Err(BadName::TooLong)
    } else if name == "." || name == ".." {
        Err(BadName::Dots)
    } else if name.chars().all(allowed) {
        Ok(())
    } else {
        Err(BadName::Character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["mlx5_0", "rocep193s0f0v2", "rail-0", "a.b", &"x".repeat(63)] {
            assert_eq!(check_device_name(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", BadName::Empty),
            (&*"x".repeat(64), BadName::TooLong),
            ("..", BadName::Dots),
            ("a/b", BadName::Character),
            ("a%d", BadName::Character),
            ("a\nb", BadName::Character),
            ("a:1", BadName::Character),
            ("a b", BadName::Character),
            ("r\u{e4}il", BadName::Character),
        ] {
            assert_eq!(check_device_name(bad), Err(why), "{bad}");
        }
    }
}
