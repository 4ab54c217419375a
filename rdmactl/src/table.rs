// SPDX-License-Identifier: MIT OR Apache-2.0
//! Columns for people.

/// Lines of equally wide columns; an empty cell is `-`, and no line ends with blanks.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|h| cell(h)).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|c| cell(c)).collect()));
    let width = |column: usize| {
        lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    lines
        .iter()
        .map(|line| {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
            format!("{}\n", cells.collect::<String>().trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns() {
        let rows = [vec!["a".into(), String::new()], vec!["long".into(), "2".into()]];
        assert_eq!(super::render(&["NAME", "N"], &rows), "NAME  N\na     -\nlong  2\n");
    }
}
