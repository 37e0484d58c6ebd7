//! What benchmarks print: medians, ratios of rounds, and the environment that belongs beside them.

use std::process::Command;

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

/// The median of the rounds' ratios, and the least and the greatest.
pub(crate) fn ratios(over: &[f64], under: &[f64]) -> String {
    let ratios = || over.iter().zip(under).map(|(over, under)| over / under);
    if over.is_empty() || under.is_empty() {
        return "-".to_owned();
    }
    let (least, most) = (ratios().fold(f64::MAX, f64::min), ratios().fold(0.0, f64::max));
    format!("**{:.2}** ({least:.2} to {most:.2})", median(ratios()))
}

pub(crate) fn rate(values: &[f64]) -> String {
    if values.is_empty() { "-".to_owned() } else { format!("{:.0}", median(values.iter().copied())) }
}

pub(crate) fn human(bytes: u64) -> String {
    if bytes >= 1024 { format!("{} KiB", bytes / 1024) } else { format!("{bytes} B") }
}

pub(crate) fn environment() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let compiler = Command::new("rustc").arg("--version").output().ok();
    let compiler = compiler.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let cpu =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    format!(
        "{cores} cores ({}), {}, kernel {}",
        cpu.unwrap_or("unknown"),
        compiler.trim(),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
