//! Release notes as HTML that is safe to show.
//!
//! Notes are GitHub's Markdown: tables, task lists, strikethrough, bare links, and a line break where the text has one.
//! What holds:
//!
//! - HTML in the notes is left out, and a link to a scheme that runs something leads nowhere.
//! - Nothing is loaded from elsewhere: a picture becomes a link to it.
//! - Headings begin below those of the page around them.

use comrak::{
    Arena, Options, format_html,
    nodes::{Node, NodeValue},
    parse_document,
};

/// The title of a release is an `h2` where several are shown.
const HEADINGS_BELOW: u8 = 2;

/// The notes as HTML.
pub(in crate::http) fn markdown(notes: &str) -> String {
    let mut options = Options::default();
    options.extension.autolink = true;
    options.extension.strikethrough = true;
    options.extension.table = true;
    options.extension.tasklist = true;
    options.render.hardbreaks = true;
    let arena = Arena::new();
    let document = parse_document(&arena, notes, &options);
    for node in document.descendants() {
        adapt(node);
    }
    let mut html = String::new();
    // Writing into a text does not fail; if it did, no notes are better than no page.
    match format_html(document, &options, &mut html) {
        Ok(()) => html,
        Err(_) => String::new(),
    }
}

fn adapt(node: Node<'_>) {
    let within_link = node.ancestors().skip(1).any(|above| matches!(above.data().value, NodeValue::Link(_)));
    let value = &mut node.data_mut().value;
    match value {
        NodeValue::Heading(heading) => heading.level = (heading.level + HEADINGS_BELOW).min(6),
        // A link holds no link: there the text stands alone.
        NodeValue::Image(_) if within_link => *value = NodeValue::Emph,
        NodeValue::Image(image) => *value = NodeValue::Link(image.clone()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_githubs_markdown() {
        insta::assert_snapshot!(markdown(
            "# New\nOne\nTwo ~~three~~ https://example.com/a?b=c&d\n\n- [x] done\n\n| a | b |\n|---|--:|\n| 1 | `2` |\n"
        ), @r#"
        <h3>New</h3>
        <p>One<br />
        Two <del>three</del> <a href="https://example.com/a?b=c&amp;d">https://example.com/a?b=c&amp;d</a></p>
        <ul>
        <li><input type="checkbox" checked="" disabled="" /> done</li>
        </ul>
        <table>
        <thead>
        <tr>
        <th>a</th>
        <th align="right">b</th>
        </tr>
        </thead>
        <tbody>
        <tr>
        <td>1</td>
        <td align="right"><code>2</code></td>
        </tr>
        </tbody>
        </table>
        "#);
    }

    #[test]
    fn nothing_in_notes_runs_or_loads() {
        for notes in [
            "<script>alert(1)</script>",
            "a <img src=x onerror=alert(1)> b",
            "<iframe src=//evil.example></iframe>",
            "[a](javascript:alert(1))",
            "[a](JaVaScRiPt:alert(1))",
            "[a](java&#10;script:alert(1))",
            "[a](&#1;javascript:alert(1))",
            "[a](<\tjavascript:alert(1)>)",
            "[a](javascript&colon;alert(1))",
            "[a](java\\script:alert(1))",
            "[a](data:text/html,<script>)",
            "[a](vbscript:x)",
            "<javascript:alert(1)>",
            "![a](javascript:alert(1))",
            "![a](https://evil.example/x.png \"t\")",
            "[![a](https://evil.example/x.png)](https://example.com)",
            "[a][b]\n\n[b]: javascript:alert(1)",
            "`<script>`\n\n```html\n<script>\n```\n",
            "[\" onclick=alert(1) x=\"](https://example.com/\"onclick=alert(1))",
        ] {
            let html = markdown(notes).to_lowercase();
            for forbidden in ["<script", "<img", "<iframe", "\" onclick"] {
                assert!(!html.contains(forbidden), "{notes} became {html}");
            }
            for link in html.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                // As a browser reads it.
                let page = url::Url::parse("https://releases.example/a/b").unwrap();
                let target = page.join(&link.replace("&amp;", "&")).unwrap();
                assert_eq!(target.scheme(), "https", "{notes} became {html}");
            }
        }
    }

    #[test]
    fn any_notes_are_shown() {
        let deep = format!("{}a", "> ".repeat(20_000));
        assert!(markdown(&deep).contains('a'));
        assert!(markdown(&"[".repeat(50_000)).contains('['));
        assert!(markdown(&"*a ".repeat(40_000)).contains('a'));
    }
}
