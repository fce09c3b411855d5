//! What the suite gave, for people, for programs and as a page of the documents.

use crate::{Cell, EXECUTORS, Results};
use flowlane_vectors::all;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// One document for programs.
pub fn json(results: &Results) -> Value {
    let cells = |of: &dyn Fn(&Cell) -> Value, row: &crate::Row| -> Map<String, Value> {
        row.cells.iter().map(|(executor, cell)| ((*executor).to_owned(), of(cell))).collect()
    };
    let counts = |cell: &Cell| json!({ "passed": cell.passed, "failed": cell.failed.len(), "refused": cell.refused });
    let claims: Vec<Value> = results
        .rows
        .iter()
        .map(|row| {
            json!({
                "id": row.claim.id,
                "claim": row.claim.sentence,
                "executors": cells(&|cell| cell.sentence().into(), row),
                "cases": cells(&counts, row),
            })
        })
        .collect();
    let others = results.others.iter().map(|(executor, how)| json!({ "executor": executor, "failed": how }));
    json!({ "claims": claims, "others": others.collect::<Vec<_>>() })
}

/// A table, and below it everything that failed.
pub fn text(results: &Results) -> String {
    let mut text = format!("{:>5}  {:<78}", "CLAIM", "");
    EXECUTORS.iter().for_each(|executor| text += &format!("{:>12}", executor.to_uppercase()));
    text.push('\n');
    for row in &results.rows {
        let cells: String = EXECUTORS.iter().map(|executor| format!("{:>12}", brief(&row.cells[executor]))).collect();
        text += &format!("{:>5}  {:<78}{cells}\n", row.claim.id, shortened(row.claim.sentence, 76));
    }
    // A case may show several claims; it is told once.
    let cells = results.rows.iter().flat_map(|row| &row.cells);
    let failed = cells.flat_map(|(executor, cell)| cell.failed.iter().map(|how| (*executor, how.as_str())));
    let others = results.others.iter().map(|(executor, how)| (*executor, how.as_str()));
    let failed: BTreeSet<_> = failed.chain(others).collect();
    failed.iter().for_each(|(executor, how)| text += &format!("\n{executor}: {how}\n"));
    text
}

/// The page `docs/conformance.md`: the same on every machine where nothing fails.
pub fn page(results: &Results) -> String {
    let mut text = format!(
        "# Conformance\n\n\
         Written by `cargo xtask conformance`, which runs this on every executor: {} golden frames\n\
         (`data-path/vectors`), and stories of several frames (`conformance/src/stories.rs`).\n\n\
         - **xdp**, **tc**: the kernel's programs, by `BPF_PROG_TEST_RUN`; on interfaces where a test run can not show it.\n\
         - **af-xdp**: the userspace executor on AF_XDP sockets, and the kernel's part of it, on interfaces.\n\
         - **userspace**: the pipeline in a process.\n\
         - **replay**: the command `flowlane replay` on a configuration and a capture.\n\n\
         The numbers are cases that passed. A case counts for each claim that it shows; what an executor can never meet (a\n\
         super-packet at the driver, a lease in a capture) is left out there. The words of the claims are in short.\n\n\
         | claim | | {} |\n| ---: | --- |{}\n",
        all().len(),
        EXECUTORS.join(" | "),
        " ---: |".repeat(EXECUTORS.len()),
    );
    for row in &results.rows {
        let cells: Vec<String> = EXECUTORS.iter().map(|executor| brief(&row.cells[executor])).collect();
        let star = if (10..=15).contains(&row.claim.id) { "\\*" } else { "" };
        text += &format!("| {}{star} | {} | {} |\n", row.claim.id, row.claim.sentence, cells.join(" | "));
    }
    text.push_str("\n\\* Missing from the application's page that survives; reconstructed from the granted texts.\n");
    text
}

fn brief(cell: &Cell) -> String {
    match cell.failed.len() {
        0 => cell.passed.to_string(),
        failed => format!("{failed} failed"),
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 2).chain("..".chars()).collect()
}
