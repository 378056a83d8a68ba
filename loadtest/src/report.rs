//! A record, or a comparison, as one page that needs nothing besides itself. Its tables are there without scripts; the
//! plots are drawn by the page, so that they fit its width and its theme.

use std::fmt::Write as _;

use serde::Serialize;

use crate::compare::{Comparison, median};
use crate::record::{Record, number};

const STYLE: &str = include_str!("report/page.css");
const SCRIPT: &str = include_str!("report/plots.js");
/// Figures that say how a run went and not how good the server is, which is what bars would compare.
const NOT_COMPARED: [&str; 8] = [
    "seconds",
    "opening, seconds",
    "resident bytes before",
    "resident bytes after",
    "deliveries",
    "round trips",
    "connects",
    "server CPU, share of the kernel",
];

/// What a plot is drawn from.
#[derive(Serialize)]
struct Drawn<'a> {
    latency: &'a crate::pairs::Pairs<crate::times::Latency>,
    course: &'a crate::watch::Course,
}

/// A run.
pub(crate) fn page(record: &Record) -> anyhow::Result<String> {
    let mut body = String::new();
    let verdict = if record.is_sound() {
        let names: Vec<_> = record.faults.iter().map(|(name, _)| name).collect();
        format!("<p class=\"verdict good\">Sound: none {}.</p>", escaped(&names.join(", none ")))
    } else {
        format!("<p class=\"verdict bad\">Not sound: {}.</p>", escaped(&record.reasons().join(", ")))
    };
    writeln!(body, "<h1>{}: {}</h1>", escaped(&record.scenario), escaped(&record.label))?;
    writeln!(body, "<p class=\"when\">{}</p>{verdict}", escaped(&record.at))?;
    let class = if record.load.is_busy() { "load busy" } else { "load" };
    writeln!(body, "<p class=\"{class}\">{}</p>", escaped(&record.load.to_string()))?;
    for note in &record.notes {
        writeln!(body, "<p>{}</p>", escaped(note))?;
    }
    plots(&mut body, record)?;
    let figures = record.figures.iter().map(|(name, figure)| (name.to_owned(), number(*figure)));
    table(&mut body, "Figures", ["figure", "value"], figures)?;
    let faults = record.faults.iter().map(|(name, count)| (name.to_owned(), count.to_string()));
    table(&mut body, "Faults", ["fault", "count"], faults)?;
    for (name, latency) in record.latency.iter() {
        let rows = latency.percentiles.iter().map(|(at, us)| (format!("{at} %"), number(*us)));
        table(&mut body, &format!("Percentiles: {name}"), ["percentile", "us"], rows)?;
    }
    let setting = record.setting.iter().map(|(name, value)| (name.to_owned(), value.clone()));
    table(&mut body, "Setting", ["setting", "value"], setting)?;
    writeln!(body, "<h2>Command</h2><pre>tidegate-loadtest {}</pre>", escaped(&record.command))?;
    let drawn = Drawn { latency: &record.latency, course: &record.course };
    html(&format!("{}: {}", record.scenario, record.label), &body, &drawn)
}

/// Where the page's script draws.
fn plots(body: &mut String, record: &Record) -> std::fmt::Result {
    let mut plot = |kind: &str, title: &str, what: &str| {
        writeln!(
            body,
            "<figure><figcaption><b>{title}</b> {what}</figcaption><div class=\"plot\" data-plot=\"{kind}\"></div></figure>"
        )
    };
    if record.latency.iter().any(|(_, latency)| latency.count > 0) {
        plot(
            "percentiles",
            "Latency by percentile.",
            "Logarithmic, so that what happens rarely can be seen.",
        )?;
        plot("bars", "Latency distribution.", "How many took how long, on a logarithmic axis.")?;
    }
    if !record.course.seconds.is_empty() {
        if record.course.per_second.iter().any(|rate| *rate > 0.0) {
            plot(
                "rate",
                "Done per second.",
                "Deliveries, round trips or connects over the run, part by part.",
            )?;
        }
        if record.course.processes.iter().any(|process| !process.is_tool) {
            plot("cpu", "Server CPU.", "Cores kept busy by each process.")?;
            plot("memory", "Server memory.", "Resident, of each process.")?;
        }
        plot(
            "load",
            "The load tool's own CPU.",
            "Cores kept busy by each of its processes. At one for each thread it is the limit.",
        )?;
    }
    Ok(())
}

fn table(
    body: &mut String,
    title: &str,
    head: [&str; 2],
    rows: impl Iterator<Item = (String, String)>,
) -> std::fmt::Result {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    let [name, value] = head;
    write!(
        body,
        "<h2>{}</h2><table><thead><tr><th>{name}</th><th>{value}</th></tr></thead><tbody>",
        escaped(title)
    )?;
    for (name, value) in rows {
        write!(body, "<tr><td>{}</td><td>{}</td></tr>", escaped(&name), escaped(&value))?;
    }
    writeln!(body, "</tbody></table>")
}

/// Several labels side by side, each figure as bars.
pub(crate) fn comparison(comparison: &Comparison, base: &str) -> anyhow::Result<String> {
    let mut body = String::from("<h1>Comparison</h1>\n");
    writeln!(
        body,
        "<p>Medians of the runs of each server. Behind each is its ratio to {}. Less is better, except where a figure \
         counts something per second.</p>",
        escaped(base)
    )?;
    for (setting, runs) in &comparison.settings {
        writeln!(body, "<h2>{}</h2>", escaped(setting))?;
        let mut names: Vec<&str> = Vec::new();
        for (_, figures) in runs.labels.iter() {
            let more = figures.iter().map(|(name, _)| name).filter(|name| !NOT_COMPARED.contains(name));
            more.for_each(|name| {
                if !names.contains(&name) {
                    names.push(name);
                }
            });
        }
        for name in names {
            let bars: Vec<(&str, f64, usize)> = runs
                .labels
                .iter()
                .filter_map(|(label, figures)| Some((label, figures.get(name)?)))
                .map(|(label, values)| (label, median(values), values.len()))
                .collect();
            let most = bars.iter().map(|(_, middle, _)| middle.abs()).fold(0.0, f64::max);
            if most == 0.0 {
                continue;
            }
            write!(body, "<h3>{}</h3><table class=\"bars\"><tbody>", escaped(name))?;
            for (label, middle, count) in bars {
                let share = middle.abs() / most * 100.0;
                let ratio =
                    runs.ratio(label, name, base).map_or(String::new(), |ratio| format!("{ratio:.3} x"));
                let class = if label == base { " class=\"base\"" } else { "" };
                write!(
                    body,
                    "<tr{class}><td>{}</td><td><span class=\"bar\" style=\"width:{share:.1}%\"></span></td>\
                     <td title=\"{count} runs\">{}</td><td>{ratio}</td></tr>",
                    escaped(label),
                    number(middle)
                )?;
            }
            writeln!(body, "</tbody></table>")?;
        }
    }
    html("comparison", &body, &())
}

fn html(title: &str, body: &str, drawn: &impl Serialize) -> anyhow::Result<String> {
    // Nothing in the data can end the element that holds it.
    let drawn = serde_json::to_string(drawn)?.replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>\n<style>\n{STYLE}</style></head>\n\
         <body><main>\n{body}</main>\n<script type=\"application/json\" id=\"drawn\">{drawn}</script>\n\
         <script>\n{SCRIPT}</script></body></html>\n",
        escaped(title)
    ))
}

/// Text as it may stand in HTML, between tags or in quotes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::times::{Latency, Times};

    fn record(label: &str) -> Record {
        let mut times = Times::default();
        times.record(5000);
        let mut record = Record::new("fanout", label);
        record.setting.add("subscribers", "2");
        record.took("latency", Latency::of(&times));
        record.faults.add("late", 0u64);
        record
    }

    #[test]
    fn nothing_that_is_named_can_break_out() {
        let evil = "</script><img src=x onerror='a' \"&";
        let mut record = record(evil);
        record.course.seconds = vec![1.0];
        record.course.processes = vec![crate::watch::Process { name: evil.to_owned(), ..Default::default() }];
        record.notes.push(evil.to_owned());
        let page = page(&record).unwrap();
        assert!(!page.contains("<img") && page.contains("&lt;img src=x onerror=&#39;a&#39; &quot;&amp;"));
        assert_eq!(page.matches("</script>").count(), 2);
        let data = page.split_once("id=\"drawn\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["course"]["processes"][0]["name"], evil);
    }

    #[test]
    fn a_page_asks_for_nothing_else() {
        let page = page(&record("tidegate")).unwrap();
        for outside in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
        assert!(page.contains("data-plot=\"percentiles\"") && !page.contains("data-plot=\"rate\""));
    }

    #[test]
    fn a_comparison_has_a_bar_for_each_label() {
        let lines = [("ours", 2.0), ("stock", 8.0)].map(|(label, us)| {
            let mut record = record(label);
            record.figures.add("server CPU, us per delivery", us);
            serde_json::to_string(&record).unwrap() + "\n"
        });
        let page = comparison(&Comparison::read(&lines.concat()).unwrap(), "stock").unwrap();
        assert!(page.contains("width:25.0%") && page.contains("0.250 x") && page.contains("width:100.0%"));
    }
}
