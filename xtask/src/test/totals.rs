//! Counts over all test programs, taken from the lines that libtest prints.

use std::{fmt, ops::AddAssign};

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that passed.
    pub passed: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that did not run.
    pub ignored: u64,
    /// A test program has begun, and not told its result yet.
    running: bool,
}

impl Totals {
    /// Takes the next line of output. A test program begins with `running 4 tests` and ends with
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    pub fn add(&mut self, line: &str) {
        if line.strip_prefix("running ").is_some_and(|rest| rest.ends_with(" tests") || rest.ends_with(" test")) {
            self.end();
            self.running = true;
        }
        if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            self.running = false;
            self.add_counts(counts);
        }
    }

    /// No more lines: a test program that died without a result counts as one failed test.
    pub fn end(&mut self) {
        self.failed += u64::from(self.running);
        self.running = false;
    }

    fn add_counts(&mut self, counts: &str) {
        for count in counts.split("; ") {
            let Some((number, name)) = count.split_once(' ') else { continue };
            let field = match name {
                "passed" => &mut self.passed,
                "failed" => &mut self.failed,
                "ignored" => &mut self.ignored,
                _ => continue,
            };
            *field += number.parse::<u64>().unwrap_or(0);
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The name of the test if the line says that it failed: `test module::name ... FAILED`.
pub fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_programs_add_up() {
        let mut totals = Totals::default();
        for line in [
            "running 4 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 5 measured; 7 filtered out; finished in 1.00s",
        ] {
            totals.add(line);
        }
        totals.end();
        assert_eq!(totals, Totals { passed: 13, failed: 2, ignored: 1, running: false });
        assert_eq!(totals.to_string(), "13 passed, 2 failed");
    }

    #[test]
    fn other_lines_count_nothing() {
        let mut totals = Totals::default();
        for line in
            ["", "test result: ", "test result: ok.", "5 passed; 1 failed", "  test result: ok. 3 passed; 0 failed"]
        {
            totals.add(line);
        }
        assert_eq!(totals, Totals::default());
    }

    #[test]
    fn test_program_that_dies_counts_as_failed() {
        let mut totals = Totals::default();
        for line in [
            "running 2 tests",
            "running 1 test",
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "running 7 tests",
            "test a ... ok",
        ] {
            totals.add(line);
        }
        totals.end();
        assert_eq!(totals.to_string(), "1 passed, 2 failed");
    }

    #[test]
    fn failed_tests_are_named() {
        assert_eq!(failed_test("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failed_test("test src/lib.rs - f (line 3) ... FAILED"), Some("src/lib.rs - f (line 3)"));
        assert_eq!(failed_test("test a::b ... ok"), None);
    }
}
