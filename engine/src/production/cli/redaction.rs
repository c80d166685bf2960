//! `audit redact`: what could be erased of a record's past, and erasing it.

use super::client::{Client, segment};
use super::{AuditRedactArgs, CliError, line};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use ureq::http::Method;

const PLACE: &str = "/v1/redactions";

pub fn redact(args: &AuditRedactArgs) -> Result<(), CliError> {
    let AuditRedactArgs { conflict, dataset, key, reason, yes, client } = args;
    let json = client.json;
    let client = Client::find(client)?;
    let preview = match (conflict, dataset, key) {
        (Some(id), _, _) => client.document(&format!("{PLACE}?conflict={id}"))?,
        (None, Some(dataset), Some(key)) => {
            let (dataset, key) = (segment(dataset), segment(key));
            client.document(&format!("{PLACE}?dataset={dataset}&key={key}"))?
        }
        (None, _, _) => {
            return Err(CliError::Usage("give a conflict's id, or --dataset and --key".to_owned()));
        }
    };
    let values = listed(&preview["values"]);
    if values.is_empty() {
        return Err(nothing(&preview));
    }
    if !yes {
        line::print(&if json { preview.to_string() } else { previewed(&preview) });
        return Ok(());
    }
    let operations: BTreeSet<&str> =
        values.iter().filter_map(|value| value["operation"].as_str()).collect();
    let asked = json!({
        "dataset": preview["dataset"],
        "key": preview["key"],
        "operations": operations,
        "reason": reason,
    });
    let answer = client.send_patiently(Method::POST, PLACE, &[], asked.to_string().as_bytes())?;
    let answer = answer.json();
    line::print(&if json { answer.to_string() } else { erased(&preview, &answer) });
    Ok(())
}

fn listed(values: &Value) -> &[Value] {
    values.as_array().map_or(&[], Vec::as_slice)
}

fn many(values: &[Value]) -> String {
    match values.len() {
        1 => "1 value".to_owned(),
        many => format!("{many} values"),
    }
}

fn record(of: &Value) -> String {
    format!("{}/{}", of["dataset"].as_str().unwrap_or("-"), of["key"].as_str().unwrap_or("-"))
}

fn nothing(preview: &Value) -> CliError {
    let record = record(preview);
    let standing = listed(&preview["standing"]);
    if standing.is_empty() {
        let problem = format!("D1 keeps no bytes of {record} that could be erased");
        return CliError::NotFound(problem);
    }
    let names: Vec<&str> = standing.iter().filter_map(|s| s["operation"].as_str()).collect();
    CliError::Failed(format!(
        "nothing but what stands is kept of {record} ({}), and that is not erased; write over the \
         record, delete or resolve it first",
        names.join(", ")
    ))
}

fn previewed(preview: &Value) -> String {
    let (values, standing) = (listed(&preview["values"]), listed(&preview["standing"]));
    let mut shown = format!(
        "{}: {} would be erased, {} bytes\n",
        record(preview),
        many(values),
        preview["bytes"]
    );
    let mut tell = |value: &Value, so: &str| {
        let text = |of: &str| value[of].as_str().unwrap_or("-").to_owned();
        let (operation, hash) = (text("operation"), text("hash"));
        let _ = writeln!(shown, "  {operation}  {} bytes  {hash}{so}", value["bytes"]);
    };
    for value in values {
        let stands = standing.iter().any(|standing| standing["hash"] == value["hash"]);
        tell(value, if stands { "  (what stands has the same bytes)" } else { "" });
    }
    for value in standing {
        tell(value, "  stands, and stays");
    }
    if preview["more"] == true {
        shown.push_str("There are more: run it again after these.\n");
    }
    shown.push_str(
        "\nNothing is erased yet. --yes erases the bytes at this site, for good; each other site is to \
         be asked by itself.",
    );
    shown
}

fn erased(preview: &Value, answer: &Value) -> String {
    let mut said = format!(
        "the bytes of {} of {} are erased at this site; what is known of them stays",
        many(listed(&answer["erased"])),
        record(answer)
    );
    if preview["more"] == true {
        said.push_str(". There are more: run it again");
    }
    said
}
