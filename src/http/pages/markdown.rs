//! Release notes as HTML that is safe to show.
//!
//! Notes are GitHub's Markdown: tables, task lists, strikethrough, bare links, and a line break where the text has one.
//! What holds:
//!
//! - HTML in the notes is left out, and a link to a scheme that runs something leads nowhere.
//! - Nothing is loaded from elsewhere: a picture becomes a link to it.
//! - Headings begin below those of the page around them.

use comrak::{
    Arena, Options,
    arena_tree::NodeEdge,
    format_html,
    nodes::{Node, NodeValue},
    parse_document,
};
use tokio::sync::Semaphore;

use crate::{apart::apart, error::Result};

/// The title of a release is an `h2` where several are shown.
const HEADINGS_BELOW: u8 = 2;

/// How much is rendered at a time: 125,000 characters can take a hundred megabytes meanwhile, and the threads that serve
/// connections are to have their share of the processors.
const AT_A_TIME: usize = 4;

static TURNS: Semaphore = Semaphore::const_new(AT_A_TIME);

/// Does what renders notes, which can take long, on another thread once it is its turn.
pub(in crate::http) async fn in_turn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    // No error: turns never end.
    let turn = TURNS.acquire().await;
    apart(usize::MAX, move || {
        let done = work();
        // Not before: the work goes on though the caller goes away.
        drop(turn);
        done
    })
    .await
}

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
    // Counted on the way: to look for a link above each node takes minutes where they are nested deep.
    let mut open_links = 0_usize;
    for edge in document.traverse() {
        match edge {
            NodeEdge::Start(node) => {
                adapt(node, open_links > 0);
                open_links += usize::from(is_link(node));
            }
            NodeEdge::End(node) => open_links -= usize::from(is_link(node)),
        }
    }
    let mut html = String::new();
    // Writing into a text does not fail; if it did, no notes are better than no page.
    match format_html(document, &options, &mut html) {
        Ok(()) => html,
        Err(_) => String::new(),
    }
}

fn is_link(node: Node<'_>) -> bool {
    matches!(node.data().value, NodeValue::Link(_))
}

fn adapt(node: Node<'_>, within_link: bool) {
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
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        thread,
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::timeout;

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
    fn a_link_holds_no_link() {
        let picture = |number: u8| format!("![p](https://e.example/{number})");
        let notes =
            format!("[{} a](https://e.example/0) {} [b](https://e.example/3)", picture(1), picture(2));
        let html = markdown(&notes);
        assert_eq!(html.matches("<a ").count(), 3, "{html}");
        assert!(!html.contains("e.example/1"), "{html}");
    }

    #[test]
    fn any_notes_are_shown() {
        // As deep as they can be. It takes minutes if each level costs a look at all those above it.
        let deep = markdown(&format!("{}a", ">".repeat(125_000)));
        assert!(deep.matches("<blockquote>").count() == 125_000 && deep.contains('a'));
        assert!(markdown(&"[".repeat(50_000)).contains('['));
        assert!(markdown(&"*a ".repeat(40_000)).contains('a'));
    }

    #[tokio::test]
    async fn few_are_rendered_at_a_time_though_nobody_waits_for_them() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let render = || {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            in_turn(move || {
                most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                thread::sleep(Duration::from_millis(50));
                running.fetch_sub(1, Relaxed);
            })
        };
        let impatient = (0..20).map(|_| timeout(Duration::from_millis(5), render()));
        assert!(join_all(impatient).await.iter().any(std::result::Result::is_err));
        let patient = join_all((0..20).map(|_| render())).await;
        assert!(patient.iter().all(std::result::Result::is_ok));
        assert!((1..=AT_A_TIME).contains(&most.load(Relaxed)), "{most:?}");
    }
}
