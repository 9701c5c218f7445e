//! `kobune get`: the API's own tables, or objects as JSON or YAML.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::Value;

use super::Failure;
use super::client::{Access, explain, request};
use super::resources;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    access: Access,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
    /// KIND [NAME…] or KIND/NAME…
    #[arg(value_name = "WHAT", required = true)]
    what: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Wide,
    Json,
    Yaml,
    Name,
}

impl Get {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let (client, namespace) = self.access.open().await?;
        let known = resources::discover(&client).await?;
        let table = matches!(self.output, None | Some(Output::Wide));
        let accept = if table { TABLE } else { "application/json" };
        let namespace = (!self.all_namespaces).then_some(namespace);
        let targets = resources::targets(&self.what)?;
        let (mut first, mut failed) = (true, false);
        for (kind, name) in targets {
            let resource = resources::find(&known, &kind)
                .ok_or_else(|| format!("the API serves no kind {kind:?}"))?;
            let mut uri = resource.path(namespace.as_deref(), name.as_deref());
            if let Some(selector) = self.selector.as_ref().filter(|_| name.is_none()) {
                uri.push_str("?labelSelector=");
                uri.push_str(&escape(selector));
            }
            match client.request::<Value>(request(Method::GET, &uri, None, accept)?).await {
                Ok(answer) => {
                    if !std::mem::take(&mut first) && table {
                        super::say("");
                    }
                    self.print(&answer, resource, namespace.as_deref())?;
                }
                Err(e) => {
                    eprintln!("kobune: {}", explain(e));
                    failed = true;
                }
            }
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn print(
        &self,
        answer: &Value,
        resource: &resources::Resource,
        namespace: Option<&str>,
    ) -> Result<(), Failure> {
        match self.output {
            Some(Output::Json) => {
                super::say(format_args!("{}", serde_json::to_string_pretty(answer)?))
            }
            Some(Output::Yaml) => super::show(&serde_saphyr::to_string(answer)?),
            Some(Output::Name) => {
                let one = std::slice::from_ref(answer);
                let items = answer["items"].as_array().map_or(one, Vec::as_slice);
                for name in items.iter().filter_map(|item| item["metadata"]["name"].as_str()) {
                    super::say(format_args!("{}/{name}", resource.report_name()));
                }
            }
            None | Some(Output::Wide) => {
                let with_namespace = self.all_namespaces && resource.namespaced;
                let rows = rows(answer, self.output == Some(Output::Wide), with_namespace);
                if rows.len() > 1 {
                    super::show(&crate::table::render(&rows));
                } else {
                    let place = namespace.filter(|_| resource.namespaced);
                    let place = place.map(|n| format!(" in namespace {n:?}")).unwrap_or_default();
                    eprintln!("no {} found{place}", resource.plural);
                }
            }
        }
        Ok(())
    }
}

/// The rows of a `meta.k8s.io/v1` Table, its heading first. Columns of priority above 0 are wide ones.
pub(crate) fn rows(table: &Value, wide: bool, with_namespace: bool) -> Vec<Vec<String>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let columns = list(&table["columnDefinitions"]);
    let shown: Vec<usize> = (0..columns.len())
        .filter(|i| wide || columns[*i]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut heading: Vec<String> =
        shown.iter().map(|i| cell(&columns[*i]["name"]).to_uppercase()).collect();
    if with_namespace {
        heading.insert(0, "NAMESPACE".into());
    }
    let mut rows = vec![heading];
    for row in list(&table["rows"]) {
        let mut cells: Vec<String> = shown.iter().map(|i| cell(&row["cells"][*i])).collect();
        if with_namespace {
            cells.insert(0, cell(&row["object"]["metadata"]["namespace"]));
        }
        rows.push(cells);
    }
    rows
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Percent-encode a query value.
pub(super) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_show_wide_columns_only_when_asked() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [{"cells": ["a", null], "object": {"metadata": {"namespace": "x"}}}],
        });
        assert_eq!(rows(&table, false, false), [["NAME"], ["a"]]);
        let all = rows(&table, true, true);
        assert_eq!(all, [["NAMESPACE", "NAME", "NODE"], ["x", "a", "<none>"]]);
    }

    #[test]
    fn selectors_survive_the_query() {
        assert_eq!(escape("a in (b,c)"), "a%20in%20%28b%2Cc%29");
    }
}
