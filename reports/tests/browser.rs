//! Opens the pages in headless Chromium, presses the keys and reads what the scripts made of it.
//!
//! Pages and screenshots stay in the target folder's `tmp/reports`, to be looked at.

mod sample;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tidelock_reports::{campaign_page, failure_page, write};

const PATIENCE: Duration = Duration::from_secs(120);

/// The browser, or `None` after saying loudly that there is none. On CI that is a failure.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|folder| {
            ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name))
        })
        .find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI has no chromium: the pages are untested");
        eprintln!("SKIPPED: no chromium");
    }
    found
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports")
}

/// Runs the browser on a page and gives its standard output.
fn browse(browser: &Path, options: &[String], page: &Path, fragment: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = profile.path().join("output");
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--force-device-scale-factor=1"])
        .arg(format!("--user-data-dir={}", profile.path().join("user").display()))
        .args(options)
        .arg(format!("file://{}{fragment}", page.display()))
        .stdout(fs::File::create(&output).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("chromium did not finish within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "chromium ended with {status}");
    fs::read_to_string(&output).unwrap()
}

fn dump(browser: &Path, page: &Path, fragment: &str) -> String {
    let dom = browse(browser, &["--dump-dom".to_owned()], page, fragment);
    let root = &dom[dom.find("<html").unwrap()..];
    let root = &root[..root.find('>').unwrap()];
    assert!(root.contains("data-ready=\"true\""), "the scripts did not finish: {root}");
    assert!(!root.contains("data-error"), "a script failed: {root}");
    dom
}

/// The text of one table row by what it holds, for checking cells.
fn row<'a>(dom: &'a str, table: &str, holds: &str) -> &'a str {
    let table = &dom[dom.find(&format!("<table id=\"{table}\"")).unwrap()..];
    let table = &table[..table.find("</table>").unwrap()];
    table
        .split("<tr")
        .find(|row| row.contains(holds))
        .unwrap_or_else(|| panic!("no row holds {holds:?} in {table}"))
}

/// The element with an id, from its attributes to the end of its text.
fn element<'a>(dom: &'a str, id: &str) -> &'a str {
    let start = dom.find(&format!(" id=\"{id}\"")).expect(id);
    &dom[start..start + dom[start..].find("</").expect(id)]
}

/// Shows a page in a frame of a phone's width, since a browser window has a least width; what
/// the page says to the frame around it is noted there.
fn in_phone(page: &Path, width: u32) -> PathBuf {
    let around = page.with_extension("phone.html");
    let name = page.file_name().unwrap().to_str().unwrap();
    let html = format!(
        "<!doctype html><html><meta name=\"color-scheme\" content=\"light dark\"><body style=\"margin:0\"><script>addEventListener('message', (event) => {{ document.documentElement.dataset.told = event.data; }});</script><iframe src=\"{name}\" style=\"border:0;display:block;width:{width}px;height:844px\"></iframe></body></html>"
    );
    write(&around, &html).unwrap();
    around
}

/// The page with a script at its end that acts as a reader would and notes what came of it.
fn with_reader(page: &str, script: &str) -> String {
    page.replace("</body>", &format!("<script>\n{script}\n</script></body>"))
}

#[test]
fn campaign_page_runs_in_a_browser() {
    let Some(browser) = chromium() else { return };
    let page = folder().join("index.html");
    write(&page, &campaign_page(&sample::campaign())).unwrap();
    let dom = dump(&browser, &page, "");
    let button = dom.find("data-copy").expect("there is a button to copy the command");
    let button = &dom[button..button + dom[button..].find('>').unwrap()];
    assert!(!button.contains("hidden"), "script must show the copy buttons: {button}");
    write(&folder().join("clean.html"), &campaign_page(&sample::clean_campaign())).unwrap();
    dump(&browser, &folder().join("clean.html"), "");
}

#[test]
fn stores_are_shown_as_they_were_at_the_cursor() {
    let Some(browser) = chromium() else { return };
    let page = folder().join("failure-7.html");
    write(&page, &failure_page(&sample::failure(5_000))).unwrap();

    // At the violation, where the cursor starts: the last value, everywhere the same.
    let dom = dump(&browser, &page, "");
    assert!(dom.contains("for=\"scrubber\">41.204 s</output>"));
    let alpha = row(&dom, "states", "notes/alpha");
    assert_eq!(alpha.matches("<code>third</code>").count(), 3, "{alpha}");
    assert!(!alpha.contains("differs"), "{alpha}");

    // While the second value is on its way: D1 and KV have it, R2 not yet.
    let dom = dump(&browser, &page, "#t=13300");
    assert!(dom.contains("for=\"scrubber\">13.300 s</output>"));
    let alpha = row(&dom, "states", "notes/alpha");
    assert_eq!(alpha.matches("<code>second</code>").count(), 2, "{alpha}");
    assert_eq!(alpha.matches("<code>first</code>").count(), 1, "{alpha}");
    assert!(alpha.contains("class=\"differs\""), "{alpha}");

    // One moment before a change, and before anything was written.
    let dom = dump(&browser, &page, "#t=12999.999");
    assert_eq!(row(&dom, "states", "notes/alpha").matches("<code>first</code>").count(), 3);
    let dom = dump(&browser, &page, "#t=10");
    assert!(dom.contains("No store holds anything yet."));
}

#[test]
fn the_time_line_stays_bounded_and_says_what_it_leaves_out() {
    let Some(browser) = chromium() else { return };
    let page = folder().join("failure-large.html");
    write(&page, &failure_page(&sample::failure(5_000))).unwrap();
    // So long a run opens around the violation, where few messages are and all are drawn.
    let dom = dump(&browser, &page, "");
    let near = dom.matches("class=\"message-line\"").count();
    assert!((20..300).contains(&near), "{near} messages");
    assert!(element(&dom, "arrows-note").contains("hidden"));

    let script = "document.getElementById('window-all').click();";
    let whole = folder().join("failure-whole.html");
    write(&whole, &with_reader(&failure_page(&sample::failure(5_000)), script)).unwrap();
    let options = ["--dump-dom".to_owned(), "--virtual-time-budget=5000".to_owned()];
    let dom = browse(&browser, &options, &whole, "");
    assert_eq!(dom.matches("class=\"message-line\"").count(), 300);
    let note = element(&dom, "arrows-note");
    assert!(note.contains("300 of the ") && !note.contains("hidden"), "{note}");
    assert!(dom.contains("class=\"line-violation\"") && dom.contains("class=\"line-healed\""));
    assert!(!dom.contains("class=\"line-recovered\""), "this run never recovered");
    for kind in ["kv.stale-read", "process.crash", "clock.jump"] {
        assert!(dom.contains(&format!("<title>{kind}, ")), "{kind} is not shaded");
    }

    let few = folder().join("failure-small.html");
    write(&few, &failure_page(&sample::failure(60))).unwrap();
    let dom = dump(&browser, &few, "");
    let arrows = dom.matches("class=\"message-line\"").count();
    let messages = sample::failure(60).events.iter().filter(|event| event.to.is_some()).count();
    assert_eq!(arrows, messages);
    assert!(element(&dom, "arrows-note").contains("hidden"));
}

#[test]
fn keys_buttons_and_filters_do_what_they_say() {
    let Some(browser) = chromium() else { return };
    let mut failure = sample::failure(400);
    failure.recovered_ms = Some(43_000.0);
    let page = folder().join("failure-read.html");
    write(&page, &with_reader(&failure_page(&failure), include_str!("reader.js"))).unwrap();
    let options = ["--dump-dom".to_owned(), "--virtual-time-budget=20000".to_owned()];
    let dom = browse(&browser, &options, &page, "");
    assert!(!dom.contains("data-error"), "a script failed");
    let start = dom.find("data-noted=\"").expect("the reader's script ran to its end") + 12;
    let noted = &dom[start..start + dom[start..].find('"').unwrap()];
    let moments = noted.split(';').collect::<Vec<_>>();
    assert_eq!(
        moments,
        [
            "ArrowRight=41.304 s",
            "ArrowLeft=41.204 s",
            "hash=18.204 s",
            "ArrowRight=18.205 s",
            "ArrowLeft=18.204 s",
            "button=41.204 s",
            "scrub=30.000 s",
            "window=39654.25..42754.25",
            "all=0..62000",
            "from=20000..62000",
            "lost=1",
            "crashes=1",
            "hidden=1",
            "download=standard-7.json true",
            "copy=cargo sim replay standard:7, Copied",
        ]
    );
}

#[test]
fn hostile_text_stays_text_after_the_scripts_ran() {
    let Some(browser) = chromium() else { return };
    for (name, html) in [
        ("hostile-index.html", campaign_page(&sample::hostile_campaign())),
        ("hostile-failure.html", failure_page(&sample::hostile_failure())),
    ] {
        let page = folder().join(name);
        // Any element made from the data shows: the pages themselves have no image at all.
        let script = r#"document.documentElement.dataset.images = document.querySelectorAll("img").length;
          document.documentElement.dataset.scripts = [...document.scripts].filter((script) => script.textContent.startsWith("alert")).length;"#;
        write(&page, &with_reader(&html, script)).unwrap();
        let dom = dump(&browser, &page, "");
        assert!(dom.contains("data-images=\"0\"") && dom.contains("data-scripts=\"0\""));
    }
    let dom = dump(&browser, &folder().join("hostile-failure.html"), "");
    assert!(row(&dom, "states", "state-record").contains("state-value"));
    assert!(row(&dom, "events", "event-text").contains("event-to"));
}

#[test]
fn pages_fit_a_phone_and_can_be_seen_in_both_schemes() {
    let Some(browser) = chromium() else { return };
    for (name, html) in [
        ("shot-campaign", campaign_page(&sample::campaign())),
        ("shot-failure", failure_page(&sample::failure(5_000))),
    ] {
        let page = folder().join(format!("{name}.html"));
        write(&page, &html).unwrap();
        for (size, scheme) in [("1280,900", 1), ("1280,900", 0), ("390,844", 1), ("390,844", 0)] {
            let shade = if scheme == 0 { "dark" } else { "light" };
            let picture = folder().join(format!("{name}-{}-{shade}.png", size.replace(',', "x")));
            // A picture of an earlier run must not pass for one of this.
            let _ = fs::remove_file(&picture);
            let options = [
                format!("--screenshot={}", picture.display()),
                format!("--window-size={size}"),
                format!("--blink-settings=preferredColorScheme={scheme}"),
            ];
            browse(&browser, &options, &page, "");
            assert!(fs::metadata(&picture).unwrap().len() > 10_000, "{}", picture.display());
        }
        // Wide content scrolls inside its own box; the page itself must not.
        let script = "parent.postMessage(`${innerWidth} wide, ${document.documentElement.scrollWidth} of content`, '*');";
        let narrow = folder().join(format!("{name}-narrow.html"));
        write(&narrow, &with_reader(&html, script)).unwrap();
        let options = ["--dump-dom".to_owned(), "--virtual-time-budget=5000".to_owned()];
        let dom = browse(&browser, &options, &in_phone(&narrow, 360), "");
        assert!(dom.contains("data-told=\"360 wide, 360 of content\""), "{name}: {dom}");
    }
}
