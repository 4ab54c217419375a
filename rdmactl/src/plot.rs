// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time line as a picture.

use std::fmt::Write as _;

use crate::boot::Moment;

/// Width of the time line, and of the names left of it, in pixels.
const WIDTH: u64 = 1000;
const LEFT: u64 = 280;
const ROW: u64 = 18;
/// Room for what is written to the right of the last moment.
const RIGHT: u64 = 420;

/// A row for each moment, those of one device or unit together; time goes from left to right.
pub(crate) fn svg(moments: &[Moment]) -> String {
    let begin = moments.iter().map(|m| m.at).min().unwrap_or(0);
    let end = moments.iter().map(|m| m.until.unwrap_or(m.at)).max().unwrap_or(0);
    let step = step(end - begin);
    let begin = begin / step * step;
    let span = (end - begin).max(1);
    let x = |at: u64| LEFT + (at - begin) * WIDTH / span;
    let mut of: Vec<&str> = Vec::new();
    for moment in moments {
        if !of.contains(&moment.of.as_str()) {
            of.push(&moment.of);
        }
    }
    let mut rows = String::new();
    let mut y = 2 * ROW;
    for of in &of {
        let _ = writeln!(
            rows,
            "<text class=\"of\" x=\"{}\" y=\"{}\">{}</text>",
            LEFT - 12,
            y + 13,
            escaped(of)
        );
        for moment in moments.iter().filter(|m| m.of == *of) {
            let (from, to) = (x(moment.at), x(moment.until.unwrap_or(moment.at)));
            let class = if moment.until.is_some() { "span" } else { "moment" };
            let _ = writeln!(
                rows,
                "<rect class=\"{class}\" x=\"{from}\" y=\"{}\" width=\"{}\" height=\"12\"/>\
                 <text x=\"{}\" y=\"{}\">{} <tspan>{}</tspan></text>",
                y + 3,
                (to - from).max(3),
                to + 8,
                y + 13,
                escaped(&moment.what),
                seconds(moment.until.unwrap_or(moment.at))
            );
            y += ROW;
        }
        let _ = writeln!(
            rows,
            "<line class=\"between\" x1=\"0\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>",
            LEFT + WIDTH + RIGHT
        );
    }
    let mut axis = String::new();
    let mut at = begin;
    while at <= end {
        let x = x(at);
        let _ = writeln!(
            axis,
            "<line class=\"axis\" x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{y}\"/><text class=\"time\" x=\"{x}\" y=\"{}\">{} s</text>",
            2 * ROW,
            2 * ROW - 6,
            seconds(at)
        );
        at += step;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>text{{fill:#222}} tspan{{fill:#777;font-size:10px}} .of{{text-anchor:end;font-weight:bold}} \
         .time{{text-anchor:middle;fill:#555}} .axis{{stroke:#ddd}} .between{{stroke:#bbb}} .span{{fill:#8ab}} \
         .moment{{fill:#c33}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{axis}{rows}</svg>\n",
        LEFT + WIDTH + RIGHT,
        y + ROW
    )
}

/// Microseconds between two marks: a round number, of which there are ten at most.
fn step(span: u64) -> u64 {
    let mut step = 1000;
    loop {
        for factor in [1, 2, 5] {
            if span <= step * factor * 10 {
                return step * factor;
            }
        }
        step *= 10;
    }
}

fn seconds(usec: u64) -> String {
    format!("{}.{:03}", usec / 1_000_000, usec / 1000 % 1000)
}

fn escaped(text: &str) -> String {
    let good = |c: &char| !c.is_control();
    let text: String = text.chars().filter(good).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture() {
        let moment = |at, until, of: &str, what: &str| Moment {
            at,
            until,
            of: of.into(),
            what: what.into(),
        };
        let svg = svg(&[
            moment(2_000_000, Some(3_000_000), "rdma-hw.target", "active"),
            moment(2_500_000, None, "rail0", "a < b & c"),
        ]);
        assert!(svg.contains("a &lt; b &amp; c"), "{svg}");
        assert!(svg.contains("<rect class=\"span\" x=\"280\" y=\"39\" width=\"1000\""), "{svg}");
        assert!(svg.contains("x=\"780\""), "half way: {svg}");
        assert_eq!(svg.matches("class=\"axis\"").count(), 11);
        assert!(super::svg(&[]).ends_with("</svg>\n"));
    }

    #[test]
    fn marks() {
        assert_eq!((step(0), step(10_000), step(10_001)), (1000, 1000, 2000));
        assert_eq!(step(1_000_000), 100_000);
        assert_eq!(step(u64::from(u32::MAX)), 500_000_000);
    }
}
