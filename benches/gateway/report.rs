//! Figures: quantiles, tables, aims, and the machine that they come from.

use std::process::Command;

use keyward::domain::clock::Clock;

/// Sorts, and gives the value below which that share of all lies; 0 where there is none.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the slice")]
    let place = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(place).copied().unwrap_or_default()
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&mut values.into_iter().collect::<Vec<_>>(), 0.5)
}

/// Prints a table that reads well as text and as Markdown. The first column is of words.
pub fn table(title: &str, head: &[&str], rows: &[Vec<String>]) {
    let lengths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(head[column].chars().count())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&lengths)
            .enumerate()
            .map(
                |(column, (cell, length))| {
                    if column == 0 { format!("{cell:<length$}") } else { format!("{cell:>length$}") }
                },
            )
            .collect();
        format!("| {} |", padded.join(" | "))
    };
    println!("\n{title}\n");
    println!("{}", line(&mut head.iter().copied()));
    let rules: Vec<String> = lengths
        .iter()
        .enumerate()
        .map(|(column, length)| if column == 0 { "-".repeat(*length) } else { "-".repeat(length - 1) + ":" })
        .collect();
    println!("{}", line(&mut rules.iter().map(String::as_str)));
    for row in rows {
        println!("{}", line(&mut row.iter().map(String::as_str)));
    }
}

/// Something to reach, and how far it was reached.
pub struct Aim {
    what: String,
    wanted: String,
    found: String,
    met: bool,
}

impl Aim {
    pub fn at_least(what: impl Into<String>, wanted: f64, found: f64) -> Self {
        Self::new(what, format!("at least {wanted}"), format!("{found:.2}"), found >= wanted)
    }

    pub fn at_most(what: impl Into<String>, wanted: f64, found: f64, unit: &str) -> Self {
        Self::new(what, format!("at most {wanted} {unit}"), format!("{found:.2} {unit}"), found <= wanted)
    }

    fn new(what: impl Into<String>, wanted: String, found: String, met: bool) -> Self {
        Self { what: what.into(), wanted, found, met }
    }
}

pub fn aims(aims: &[Aim]) {
    let rows: Vec<Vec<String>> = aims
        .iter()
        .map(|aim| {
            let verdict = if aim.met { "met" } else { "not met" };
            vec![aim.what.clone(), aim.wanted.clone(), aim.found.clone(), verdict.to_owned()]
        })
        .collect();
    table("Aims", &["aim", "wanted", "found", "verdict"], &rows);
}

/// Says what this was measured on.
pub fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim().to_owned())
            })
            .unwrap_or_else(|| "unknown".to_owned())
    };
    let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout);
    let rustc = rustc.map(|version| String::from_utf8_lossy(&version).trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = read("/proc/cpuinfo");
    let virtual_machine = if cpu.contains(" hypervisor") { ", virtual" } else { "" };
    println!("When:    {}", Clock::system().now().rfc3339());
    println!("Machine: {}, {cores} cores{virtual_machine}", field(&cpu, "model name"));
    println!("Memory:  {}", field(&read("/proc/meminfo"), "MemTotal"));
    println!("Kernel:  Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("Rust:    {}", rustc.unwrap_or_else(|_| "unknown".to_owned()));
    println!("Keyward: {}", env!("CARGO_PKG_VERSION"));
}
