//! What a person reads after the demo. Pure: facts in, text out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::table::render;

/// What the demo found.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) nodes: Vec<NodeFact>,
    pub(super) pods: Vec<PodFact>,
    pub(super) service: String,
    /// `address:port`.
    pub(super) vip: String,
    /// Which Pod answered each request, in order, and how fast.
    pub(super) answers: Vec<(String, Duration)>,
    /// Phase, and when it was over, counted from the program's start.
    pub(super) phases: Vec<(String, Duration)>,
}

#[derive(Debug, Default)]
pub(super) struct NodeFact {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) address: String,
    pub(super) pod_cidr: String,
    pub(super) version: String,
}

#[derive(Debug, Default)]
pub(super) struct PodFact {
    pub(super) name: String,
    pub(super) ready: String,
    pub(super) address: String,
    pub(super) node: String,
}

/// The whole page.
pub(super) fn page(facts: &Facts) -> String {
    let mut text = String::new();
    let mut section = |title: &str, body: String| {
        text.push_str(&format!("\n{title}\n{}", indent(&body)));
    };
    section("The node", nodes(&facts.nodes));
    section("The Pods", pods(&facts.pods));
    section("One Service, three Pods", picture(facts));
    section(
        &format!("{} requests to {}, and who answered", facts.answers.len(), facts.vip),
        answers(facts),
    );
    section("How long it took", phases(&facts.phases));
    text
}

fn nodes(nodes: &[NodeFact]) -> String {
    let mut rows = vec![["NAME", "STATUS", "ADDRESS", "POD RANGE", "VERSION"].map(str::to_owned)];
    rows.extend(nodes.iter().map(|node| {
        [&node.name, &node.status, &node.address, &node.pod_cidr, &node.version].map(Clone::clone)
    }));
    render(&rows)
}

fn pods(pods: &[PodFact]) -> String {
    let mut rows = vec![["NAME", "STATUS", "IP", "NODE"].map(str::to_owned)];
    let row = |pod: &PodFact| [&pod.name, &pod.ready, &pod.address, &pod.node].map(Clone::clone);
    rows.extend(pods.iter().map(row));
    render(&rows)
}

/// ```text
///                          ┌─────────────────────────┐
///                      ┌──▶│ hello-…-abcde 10.244.0.2│ 4 answers
/// ```
fn picture(facts: &Facts) -> String {
    let counts = count(&facts.answers);
    let width = |f: &dyn Fn(&PodFact) -> usize| facts.pods.iter().map(f).max().unwrap_or(0);
    let (names, addresses) = (width(&|pod| pod.name.len()), width(&|pod| pod.address.len()));
    let left = [format!("Service {}", facts.service), facts.vip.clone()];
    let left_width = left.iter().map(String::len).max().unwrap_or(0);
    let rule = "-".repeat(names + addresses + 4);
    let blank = " ".repeat(left_width);
    let last = facts.pods.len().saturating_sub(1);
    let middle = last / 2;
    let mut text = String::new();
    for (i, pod) in facts.pods.iter().enumerate() {
        let before = if i == 0 { " " } else { "|" };
        if i == 0 {
            text.push_str(&format!("{blank}    {before}      +{rule}+\n"));
        }
        let (label, joint) = match i {
            _ if i == middle => (&left[0], "+"),
            0 => (&blank, "."),
            _ if i == last => (&blank, "'"),
            _ => (&blank, "+"),
        };
        let line = if i == middle { "---" } else { "   " };
        let (name, address) = (&pod.name, &pod.address);
        let answers = counts.get(name).copied().unwrap_or(0);
        let plural = if answers == 1 { "" } else { "s" };
        text.push_str(&format!(
            "{label:<left_width$} {line}{joint}----> | {name:<names$}  {address:<addresses$} |  {answers} answer{plural}\n"
        ));
        let label = if i == middle { &left[1] } else { &blank };
        let after = if i == last { " " } else { "|" };
        text.push_str(&format!("{label:<left_width$}    {after}      +{rule}+\n"));
    }
    text
}

fn answers(facts: &Facts) -> String {
    let rows: Vec<[String; 3]> = facts
        .answers
        .iter()
        .enumerate()
        .map(|(i, (pod, took))| {
            [format!("{:>2}", i + 1), pod.clone(), format!("{:.1} ms", took.as_secs_f64() * 1e3)]
        })
        .collect();
    render(&rows)
}

fn phases(phases: &[(String, Duration)]) -> String {
    let mut before = Duration::ZERO;
    let mut rows =
        vec![[String::new(), format!("{:>8}", "TOOK"), format!("{:>11}", "SINCE START")]];
    for (what, at) in phases {
        let took = at.saturating_sub(before);
        before = *at;
        rows.push([what.clone(), seconds(took), format!("{:>11}", seconds(*at))]);
    }
    render(&rows)
}

fn seconds(time: Duration) -> String {
    format!("{:>6.3} s", time.as_secs_f64())
}

fn count(answers: &[(String, Duration)]) -> BTreeMap<&String, usize> {
    let mut counts = BTreeMap::new();
    answers.iter().for_each(|(pod, _)| *counts.entry(pod).or_default() += 1);
    counts
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_as_it_is_read() {
        let pod = |last: char, address: &str| PodFact {
            name: format!("hello-7d4-{last}"),
            ready: "Running, ready".into(),
            address: address.into(),
            node: "boat".into(),
        };
        let answer = |last: char| (format!("hello-7d4-{last}"), Duration::from_micros(400));
        let facts = Facts {
            nodes: vec![NodeFact {
                name: "boat".into(),
                status: "Ready".into(),
                ..NodeFact::default()
            }],
            pods: vec![pod('a', "10.244.0.2"), pod('b', "10.244.0.3"), pod('c', "10.244.0.14")],
            service: "hello".into(),
            vip: "10.96.7.1:80".into(),
            answers: vec![answer('c'), answer('a'), answer('c')],
            phases: vec![
                ("API ready".into(), Duration::from_millis(20)),
                ("node ready".into(), Duration::from_millis(50)),
            ],
        };
        let page = page(&facts);
        let lines: Vec<&str> = page.lines().collect();
        let at = lines.iter().position(|line| line.contains(".---->")).unwrap();
        let arrows: Vec<usize> = lines.iter().filter_map(|line| line.find("----> |")).collect();
        assert_eq!(arrows.len(), 3, "{page}");
        assert!(arrows.iter().all(|column| *column == arrows[0]), "{page}");
        let bars: Vec<Option<usize>> = (at..at + 5).map(|i| lines[i].rfind(['|', '+'])).collect();
        assert!(bars.iter().all(|bar| *bar == bars[0]), "{page}");
        assert!(page.contains("|  2 answers") && page.contains("Service hello"), "{page}");
        assert!(page.contains("node ready    0.030 s       0.050 s"), "{page}");
        assert!(!page.lines().any(|line| line.ends_with(' ')), "{page:?}");
    }
}
