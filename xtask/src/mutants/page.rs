//! The table, for people, for programs and for docs/mutants.md.

use super::{CONFIG, LEAST, PAGE, results::Counts};
use crate::{error::Error, repository::Repository};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};

/// Packages with what became of their faults.
pub type Table = [(&'static str, Counts)];

const HEAD: &str = "\
| package | faults | tried | noticed | of these, by time | not noticed | share of those tried | not compiled | left out |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
";

/// The table in Markdown, which is good to read as it is.
pub fn table(table: &Table) -> String {
    let rows: Vec<_> = table.iter().map(|(package, counts)| row(package, counts)).collect();
    format!("{HEAD}{}", rows.join("\n"))
}

/// One JSON document.
pub fn json(table: &Table) -> Result<String, Error> {
    let packages = table.iter().map(|(package, counts)| {
        let Counts { caught, timeout, missed, untried, unviable, excluded } = counts;
        let percent = counts.percent();
        json!({ "package": package, "caught": caught, "timeout": timeout, "missed": missed, "untried": untried, "unviable": unviable,
            "excluded": excluded, "percent": percent })
    });
    let document = json!({ "least_percent": LEAST, "packages": packages.collect::<Vec<Value>>() });
    serde_json::to_string_pretty(&document).map_err(Error::json("the table"))
}

/// Writes the page. Packages that were not run keep their rows.
pub fn write(repository: &Repository, table: &Table) -> Result<(), Error> {
    let path = repository.path(PAGE);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let config = repository.path(CONFIG);
    let config = fs::read_to_string(&config).map_err(Error::file("read", config))?;
    fs::write(&path, page(&before, table, &config)).map_err(Error::file("written", path))
}

fn page(before: &str, table: &Table, config: &str) -> String {
    let mut rows: BTreeMap<&str, String> =
        before.lines().filter_map(|line| Some((package_of(line)?, line.to_owned()))).collect();
    rows.extend(table.iter().map(|(package, counts)| (*package, row(package, counts))));
    let rows: String = rows.values().map(|row| format!("{row}\n")).collect();
    let excluded: String = excluded(config).iter().map(|(what, why)| format!("| `{what}` | {why} |\n")).collect();
    format!(
        "\
# Faults that tests notice

[cargo-mutants](https://mutants.rs) changes the sources of a package in one place: an operator, a condition, what a function
returns. Then the tests run. A change that none of them notices is a behaviour that nobody has written down.

    cargo xtask mutants                  # all packages; takes hours
    cargo xtask mutants --package allot  # one of them
    cargo xtask mutants --resume         # goes on, and after new tests tries what was not noticed before
    cargo xtask mutants --report         # tries nothing: the table, and what was not noticed

The command fails where less than {LEAST} % are noticed, and names each fault that is not. It is no part of `cargo xtask test`.
First run the tests of the package itself (of the pipeline: the model, on generated frames), and on what is left the tests of
the packages that use it. None of them needs root.

{HEAD}{rows}
A package without a row was not tried. A change that a test never ends with is noticed by the time that it takes. What the
compiler refuses counts for nothing.

## Left out

What can not be noticed, by `{CONFIG}`:

| changes | why |
| --- | --- |
{excluded}"
    )
}

fn row(package: &str, counts: &Counts) -> String {
    let Counts { timeout, missed, unviable, excluded, .. } = counts;
    let (faults, tried, noticed, percent) = (counts.faults(), counts.tried(), counts.noticed(), counts.percent());
    format!(
        "| `{package}` | {faults} | {tried} | {noticed} | {timeout} | {missed} | {percent:.1} % | {unviable} | {excluded} |"
    )
}

/// The package of a row.
fn package_of(line: &str) -> Option<&str> {
    line.strip_prefix("| `flowlane-").and_then(|_| line.split('`').nth(1))
}

/// The expressions of the configuration, each with the comment above it.
fn excluded(config: &str) -> Vec<(String, String)> {
    let (mut all, mut why, mut within) = (Vec::new(), Vec::new(), false);
    for line in config.lines().map(str::trim) {
        match line.strip_prefix('#') {
            _ if line.starts_with("exclude_re") => within = true,
            _ if !within || line.starts_with(']') => {}
            Some(comment) => why.push(comment.trim()),
            None if line.is_empty() => why.clear(),
            None => {
                let what = line.trim_end_matches(',').trim_matches(['\'', '"']);
                // A bar would end the cell.
                all.push((what.replace("\\|", "|").replace('|', "\\|"), why.join(" ")));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
# For all.
exclude_re = [
    # Text for people,
    # no more.
    'impl (Display|Debug) for',
    'impl Error for',

    # The same.
    'replace < with <= in sooner',
]
";

    #[test]
    fn every_expression_has_the_reason_above_it() {
        let text = "Text for people, no more.";
        let expected = [
            ("impl (Display\\|Debug) for", text),
            ("impl Error for", text),
            ("replace < with <= in sooner", "The same."),
        ];
        let found = excluded(CONFIG);
        assert_eq!(found, expected.map(|(what, why)| (what.to_owned(), why.to_owned())));
    }

    #[test]
    fn packages_that_were_not_run_keep_their_rows() {
        let first = Counts { caught: 96, timeout: 1, missed: 3, untried: 9, unviable: 2, excluded: 4 };
        let before = page("", &[("flowlane-a", first), ("flowlane-b", first)], CONFIG);
        let kept = "| `flowlane-a` | 109 | 100 | 97 | 1 | 3 | 97.0 % | 2 | 4 |";
        assert!(before.contains(kept), "{before}");
        let after = page(&before, &[("flowlane-b", Counts { missed: 0, ..first })], CONFIG);
        assert!(
            after.contains(kept) && after.contains("| `flowlane-b` | 106 | 97 | 97 | 1 | 0 | 100.0 % | 2 | 4 |"),
            "{after}"
        );
    }

    #[test]
    fn every_expression_of_the_repository_has_a_reason() {
        let repository = Repository::find().expect("this repository");
        let config = fs::read_to_string(repository.path(super::CONFIG)).expect("the configuration");
        let excluded = excluded(&config);
        assert!(!excluded.is_empty());
        for (what, why) in excluded {
            assert!(!why.is_empty(), "{what}");
        }
    }
}
