//! `dflock config`: the settings in force, and where each comes from.

use clap::Args;
use serde::Serialize;

use super::manner::Manner;
use super::target::Target;
use crate::error::Failure;
use crate::output::{self, Table};

/// Show the settings in force and where each comes from
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock config
  dflock config --servers a:6388,b:6388 --json")]
pub struct Config {
    #[command(flatten)]
    target: Target,

    #[command(flatten)]
    manner: Manner,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    settings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    value: String,
    source: String,
}

impl Config {
    pub fn run(self) -> Result<u8, Failure> {
        let found = self.target.settings(Vec::new())?.found;
        let settings = found
            .into_iter()
            .map(|found| Row { name: found.name, value: found.value, source: found.source.to_string() })
            .collect();
        let document = Document { schema: output::SCHEMA, settings };
        self.manner.answer(&document, || {
            let mut table = Table::new(&["SETTING", "VALUE", "SOURCE"]);
            for Row { name, value, source } in &document.settings {
                let value = if value.is_empty() { "-" } else { value };
                table.row(vec![(*name).to_owned(), value.to_owned(), source.clone()]);
            }
            table.render()
        })?;
        Ok(0)
    }

    pub fn manner(&self) -> Manner {
        self.manner
    }
}
