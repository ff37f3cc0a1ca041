//! Migrations: what landed stays, both databases keep in step, and what a migration moves arrives.

use std::fs;

use keyward::storage::{Database, StorageError};
use rusqlite::Connection;
use rusqlite::types::Value;

use crate::on_both;
use crate::support::{root, sha256};

/// A database refuses to start on a migration that is no longer the one that it ran, be it by a comment.
/// A new one is entered in the list: `cd migrations && sha256sum */NAME >> ../tests/it/migrations.sha256`.
#[test]
fn migrations_stay_as_they_landed() {
    let list = fs::read_to_string(root().join("tests/it/migrations.sha256")).unwrap();
    let mut listed: Vec<&str> = list.lines().collect();
    listed.sort_unstable();
    let mut found = Vec::new();
    for kind in ["postgres", "sqlite"] {
        for entry in fs::read_dir(root().join("migrations").join(kind)).unwrap() {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push(format!("{}  {kind}/{}", sha256(&text), entry.file_name().to_string_lossy()));
        }
    }
    found.sort_unstable();
    assert_eq!(found, listed, "a migration was changed, or a new one is not entered");
}

/// How rows are laid out is each database's own affair; the other one's file says why it has nothing to do.
const LAID_OUT_ANEW: &[(&str, &str)] = &[("0031_usage_rows.sql", "sqlite")];

#[test]
fn migrations_are_in_step() {
    let names = |kind: &str| {
        let mut names: Vec<String> = fs::read_dir(root().join("migrations").join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
    for name in names("sqlite") {
        let text = |kind: &str| fs::read_to_string(root().join("migrations").join(kind).join(&name)).unwrap();
        if let Some((_, of)) = LAID_OUT_ANEW.iter().find(|(anew, _)| *anew == name) {
            let other = if *of == "sqlite" { "postgres" } else { "sqlite" };
            assert!(text(other).lines().all(|line| line.starts_with("--")), "{other}/{name} does something");
            continue;
        }
        let statements = |kind: &str| {
            // Types and table options are where the two may differ.
            text(kind)
                .lines()
                .filter(|line| !line.starts_with(')'))
                .map(|line| {
                    line.split_whitespace()
                        .map(|word| match word.trim_end_matches([',', ';']) {
                            "UUID" | "BYTEA" | "BLOB" => "bytes",
                            "BIGINT" | "BOOLEAN" | "INTEGER" => "number",
                            _ => word,
                        })
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(statements("sqlite"), statements("postgres"), "{name}");
    }
}

/// All rows of a question, in order.
fn rows(db: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = db.prepare(sql).unwrap();
    let columns = statement.column_count();
    let read = |row: &rusqlite::Row<'_>| (0..columns).map(|i| row.get(i)).collect();
    statement.query_map([], read).unwrap().map(Result::unwrap).collect()
}

/// A table that is laid out anew has the rows, columns and indexes that it had.
#[test]
fn usage_comes_whole_into_its_new_table() {
    let db = Connection::open_in_memory().unwrap();
    let folder = root().join("migrations/sqlite");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let anew = files.iter().position(|path| path.ends_with("0031_usage_rows.sql")).unwrap();
    for path in &files[..anew] {
        db.execute_batch(&fs::read_to_string(path).unwrap()).unwrap();
    }
    // Every column of every row has a value of its own; what may be absent is in every other row.
    let columns = rows(&db, "SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('usage')");
    for n in 0..40_i64 {
        let values = columns.iter().zip(1..).map(|(column, at)| match (&column[1], &column[2]) {
            (_, Value::Integer(0)) if n % 2 == 0 => Value::Null,
            (Value::Text(kind), _) if kind == "BLOB" => Value::Blob(format!("{n:08}{at:08}").into_bytes()),
            (Value::Text(kind), _) if kind == "TEXT" => Value::Text(format!("text {n} {at}")),
            _ => Value::Integer(n * 1_000 + at),
        });
        let marks = vec!["?"; columns.len()].join(", ");
        let insert = format!("INSERT INTO usage VALUES ({marks})");
        db.execute(&insert, rusqlite::params_from_iter(values)).unwrap();
    }
    let look = || {
        let indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'usage'
                       AND sql IS NOT NULL ORDER BY name";
        (rows(&db, "SELECT * FROM usage ORDER BY id"), rows(&db, indexes))
    };
    let before = look();
    assert_eq!((before.0.len(), before.1.len()), (40, 4));
    db.execute_batch(&fs::read_to_string(&files[anew]).unwrap()).unwrap();
    assert_eq!(look(), before);
    let after = rows(&db, "SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('usage')");
    assert_eq!(after, columns);
    let twice = db.execute("INSERT INTO usage SELECT * FROM usage LIMIT 1", []);
    assert!(twice.unwrap_err().to_string().contains("UNIQUE constraint failed: usage.id"));
    assert_eq!(rows(&db, "PRAGMA integrity_check"), [[Value::Text("ok".into())]]);
}

on_both! {
    /// A database that ran migration 30 with the comment that it had for a while starts; one that ran another text
    /// does not.
    async fn a_comment_that_was_out_for_a_while_stops_no_start(world: World) {
        world.services.db.migrate().await.unwrap();
        let commented = match &world.services.db {
            Database::Sqlite(_) => "UPDATE _sqlx_migrations SET checksum = x'a4f79126c556c50f1583ccf802db0229295eff88d8b75c855a0ef575d7b470b9ec9783c252ae41f48e2ac48686e430ec' WHERE version = 30",
            Database::Postgres(_) => "UPDATE _sqlx_migrations SET checksum = '\\x0984d09f9d3c7886f34a8a7d0c3ad9f575cd4f9749110136d5943f7194109c15612cf346364c159fcc042205bd4da58d' WHERE version = 30",
        };
        world.sql(commented).await;
        world.services.db.migrate().await.unwrap();
        let other = match &world.services.db {
            Database::Sqlite(_) => "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 30",
            Database::Postgres(_) => "UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 30",
        };
        world.sql(other).await;
        assert!(matches!(world.services.db.migrate().await, Err(StorageError::Migrate(_))));
    }
}
