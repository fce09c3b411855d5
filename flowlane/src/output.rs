//! What commands print: data on the standard output, talk on the standard error output.

use miette::{Diagnostic, IntoDiagnostic as _, Report, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Documents instead of lines.
    pub json: bool,
    /// Whether the standard output may be coloured: it is a terminal, and `NO_COLOR` is not set.
    pub color: bool,
}

impl Output {
    /// For a process with the usual streams.
    pub fn new(json: bool) -> Self {
        Self { json, color: io::stdout().is_terminal() && !no_color() }
    }

    /// Prints a line of data.
    ///
    /// # Errors
    /// Where the standard output does not take it.
    pub fn line(self, line: impl Display) -> Result<()> {
        writeln!(io::stdout().lock(), "{line}").into_diagnostic()
    }

    /// Prints a document.
    ///
    /// # Errors
    /// Where the standard output does not take it.
    pub fn document(self, document: &impl Serialize) -> Result<()> {
        self.line(serde_json::to_string_pretty(document).into_diagnostic()?)
    }

    /// Says something to people; with `--json`, nobody is listening.
    pub fn say(self, text: impl Display) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    /// Prints rows in columns under their heads, without borders and trailing spaces.
    ///
    /// # Errors
    /// Where the standard output does not take it.
    pub fn table(self, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<()> {
        use comfy_table::{ContentArrangement, Table, presets::NOTHING};
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(heads.to_vec());
        table.add_rows(rows);
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        table.lines().try_for_each(|line| self.line(line.trim_end()))
    }
}

/// Whether colours are unwanted: <https://no-color.org>.
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes an error where errors go: drawn on a terminal, as plain lines elsewhere, or as a document.
pub fn print_error(report: &Report, json: bool) {
    // Nothing can be done where even this fails.
    let _ = match (json, io::stderr().is_terminal()) {
        (true, _) => writeln!(io::stderr(), "{:#}", document_of(report)),
        (false, true) => writeln!(io::stderr(), "{report:?}"),
        (false, false) => write!(io::stderr(), "{}", plain(report)),
    };
}

fn document_of(report: &Report) -> Value {
    let mut error = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            error.insert(name.to_owned(), value);
        }
    };
    set("code", Some(report.code().map_or_else(|| "FL0000".to_owned(), |code| code.to_string()).into()));
    set("message", Some(message(report).into()));
    set("help", report.help().map(|help| help.to_string().into()));
    if let Some(place) = place(report.as_ref()) {
        set("file", Some(place.file.into()));
        set("line", Some(place.line.into()));
    }
    json!({ "error": error })
}

/// One line for each thing to be said, so that grep(1) finds it.
fn plain(report: &Report) -> String {
    let code = report.code().map(|code| format!("[{code}]")).unwrap_or_default();
    let mut text = format!("error{code}: {}\n", message(report));
    if let Some(place) = place(report.as_ref()) {
        text += &format!("  at {}:{}:{}\n", place.file, place.line, place.column);
        text += &place.label.map(|label| format!("  {label}\n")).unwrap_or_default();
    }
    text + &report.help().map(|help| format!("  help: {help}\n")).unwrap_or_default()
}

/// The error with its causes, as far as they say something new.
pub fn message(report: &Report) -> String {
    let mut text = String::new();
    for cause in report.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// What an error points at.
struct Place {
    file: String,
    line: usize,
    column: usize,
    label: Option<String>,
}

fn place(error: &(dyn Diagnostic + Send + Sync + 'static)) -> Option<Place> {
    let label = error.labels()?.next()?;
    let contents = error.source_code()?.read_span(label.inner(), 0, 0).ok()?;
    Some(Place {
        file: contents.name()?.to_owned(),
        line: contents.line() + 1,
        column: contents.column() + 1,
        label: label.label().map(str::to_owned),
    })
}
