//! Holding Keyward's books against the provider's own report: the same key, model and UTC day on
//! both sides, the difference, and its likely cause.

use std::collections::BTreeMap;

use super::clock::{DAY, HOUR, Moment};
use super::money::Nanos;
use super::price::without_snapshot;

/// Providers take a while until a day is complete.
const SETTLES_AFTER: i64 = 6 * HOUR;
/// Checks of a key use a few tokens that are on no bill of Keyward's.
const FEW_TOKENS: i64 = 1_000;
/// How many times a usual request an estimate may be off by.
const OFF_BY: i64 = 10;
const FEW_NANOS: i64 = 10_000_000;

/// What the provider reports of one of its keys, one model and one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    pub day: Moment,
    /// The provider's own id of the key; empty for what no key did, such as its own console.
    pub api_key: String,
    pub model: String,
    pub key_name: String,
    /// The key as the provider shows it: its beginning and its end.
    pub key_hint: String,
    pub requests: Option<i64>,
    /// Of all kinds, in and out.
    pub tokens: i64,
    /// `None` where the provider reports none.
    pub cost: Option<Nanos>,
    pub fetched_at: Moment,
}

/// What Keyward recorded of one of its key versions, one model and one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub day: Moment,
    pub key_name: String,
    pub version: i32,
    pub model: String,
    pub requests: i64,
    pub tokens: i64,
    pub cost: Nanos,
    pub estimated: i64,
    pub unpriced: i64,
}

/// A key version of Keyward's, in use or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub name: String,
    pub version: i32,
    /// `sk-ant-api03-…7Qx4`.
    pub hint: String,
    /// Of the secret: two versions may hold the same one.
    pub fingerprint: String,
    /// When it was pasted: what it did before is none of Keyward's.
    pub since: Moment,
    /// It is sent to a URL of the tenant's own, whose use is in no report.
    pub is_elsewhere: bool,
}

/// One side of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    pub requests: Option<i64>,
    pub tokens: i64,
    pub cost: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The provider reports use of this key that Keyward never sent.
    Elsewhere,
    /// The provider reports less than Keyward sent.
    LessThere,
    /// The same tokens at another price.
    Price,
    /// Keyward knows no price for the model.
    Unpriced,
    /// Keyward settled some of it by estimate.
    Estimated,
    /// The provider's report of the day is not complete yet.
    Incomplete,
    /// One side counts on the next day what the other counts on this one.
    Shifted,
    /// The key was used before it was pasted here.
    Before,
    /// Charged for by something other than tokens.
    Extra,
    /// The key is not one of Keyward's.
    NotHere,
    /// The same, as near as such reports are.
    Same,
}

/// A key version, a model and a day, on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub day: Moment,
    /// Keyward's name of the key and its version; for a key that is not here, the provider's name.
    pub key: String,
    pub model: String,
    pub here: Side,
    pub there: Side,
    pub cause: Cause,
}

impl Line {
    #[must_use]
    pub fn tokens_apart(&self) -> i64 {
        self.there.tokens - self.here.tokens
    }

    /// `None` where one side has no cost to compare.
    #[must_use]
    pub fn cost_apart(&self) -> Option<Nanos> {
        Some(Nanos(self.there.cost?.0 - self.here.cost?.0))
    }
}

/// Whether a provider's way of showing a key is that of one of ours: the same recognised beginning
/// and the same last four characters.
#[must_use]
pub fn is_same_key(theirs: &str, ours: &str) -> bool {
    let Some((prefix, tail)) = ours.split_once('…') else { return false };
    // Beginning, then dots or stars for what is hidden, then the end.
    let start: &str = theirs.split(['.', '*', '…']).next().unwrap_or_default();
    let shorter = start.len().min(prefix.len());
    let same_start = start.get(..shorter) == prefix.get(..shorter);
    tail.len() == 4 && shorter >= 3 && same_start && theirs.ends_with(tail)
}

/// Puts both sides together, the newest day first and what needs looking at before what does not.
#[must_use]
pub fn compare(reported: &[Reported], recorded: &[Recorded], keys: &[KnownKey], now: Moment) -> Vec<Line> {
    #[derive(Default)]
    struct Both {
        here: Side,
        there: Side,
        estimated: i64,
        unpriced: i64,
        known: bool,
    }
    let plain = |model: &str| without_snapshot(model).unwrap_or(model).to_owned();
    let add = |sum: Option<i64>, more: Option<i64>| more.map_or(sum, |more| Some(sum.unwrap_or(0) + more));
    let mut lines: BTreeMap<(i64, String, String), Both> = BTreeMap::new();
    // Versions with the same secret are one key to the provider: they go by the name of the newest.
    let label = |key: &KnownKey| {
        let newest = keys.iter().find(|other| other.fingerprint == key.fingerprint).unwrap_or(key);
        format!("{}@{}", newest.name, newest.version)
    };
    let mut since: BTreeMap<String, Moment> = BTreeMap::new();
    for key in keys {
        let first = since.entry(label(key)).or_insert(key.since);
        *first = (*first).min(key.since);
    }
    for one in recorded {
        let known = keys.iter().find(|key| key.name == one.key_name && key.version == one.version);
        if known.is_some_and(|key| key.is_elsewhere) {
            continue;
        }
        let key = known.map_or_else(|| format!("{}@{}", one.key_name, one.version), label);
        let both = lines.entry((one.day.0, key, plain(&one.model))).or_default();
        both.known = true;
        both.here.requests = add(both.here.requests, Some(one.requests));
        both.here.tokens += one.tokens;
        both.here.cost = Some(Nanos(both.here.cost.unwrap_or_default().0 + one.cost.0));
        both.estimated += one.estimated;
        both.unpriced += one.unpriced;
    }
    for one in reported {
        let ours = keys.iter().find(|ours| is_same_key(&one.key_hint, &ours.hint));
        let key = ours.map(label);
        let known = key.is_some();
        let both = lines
            .entry((one.day.0, key.unwrap_or_else(|| one.key_name.clone()), plain(&one.model)))
            .or_default();
        both.known |= known;
        both.there.requests = add(both.there.requests, one.requests);
        both.there.tokens += one.tokens;
        both.there.cost = add(both.there.cost.map(|cost| cost.0), one.cost.map(|cost| cost.0)).map(Nanos);
    }
    let mut lines: Vec<Line> = lines
        .into_iter()
        .map(|((day, key, model), both)| {
            let mut here = both.here;
            if both.known {
                here.cost.get_or_insert_default();
            }
            let complete = now.since(Moment(day)) >= DAY + SETTLES_AFTER;
            let line = Line { day: Moment(day), key, model, here, there: both.there, cause: Cause::Same };
            let cause = cause_of(&line, both.known, complete, both.estimated, both.unpriced);
            Line { cause, ..line }
        })
        .collect();
    let apart: BTreeMap<(i64, String, String), i64> = lines
        .iter()
        .map(|line| ((line.day.0, line.key.clone(), line.model.clone()), line.tokens_apart()))
        .collect();
    for line in &mut lines {
        let around = |days: i64| {
            apart.get(&(line.day.0 + days * DAY, line.key.clone(), line.model.clone())).copied().unwrap_or(0)
        };
        if line.cause == Cause::LessThere {
            let with_neighbours = around(-1).max(0) + line.tokens_apart() + around(1).max(0);
            if with_neighbours >= -FEW_TOKENS {
                line.cause = Cause::Shifted;
            }
        }
        if line.cause != Cause::Elsewhere {
            continue;
        }
        let with_neighbours = around(-1).min(0) + line.tokens_apart() + around(1).min(0);
        if since.get(&line.key).is_some_and(|since| line.day <= *since) {
            line.cause = Cause::Before;
        } else if with_neighbours <= FEW_TOKENS {
            line.cause = Cause::Shifted;
        }
    }
    lines.sort_by(|a, b| b.day.cmp(&a.day).then(a.cause.cmp(&b.cause)).then_with(|| a.key.cmp(&b.key)));
    lines
}

fn cause_of(line: &Line, known: bool, complete: bool, estimated: i64, unpriced: i64) -> Cause {
    let tokens = line.tokens_apart();
    let far = |apart: i64, of: i64, few: i64| apart.abs() > few && apart.abs() > of.abs() / 100;
    let most = line.here.tokens.max(line.there.tokens);
    if !known {
        return Cause::NotHere;
    }
    if far(tokens, most, FEW_TOKENS) {
        // More than was sent is more, however early it is; less may still come. A few estimates among many
        // requests explain no more than as many times what a request uses.
        let usual = line.here.tokens / line.here.requests.unwrap_or(1).max(1);
        let explained = estimated.saturating_mul(usual.max(FEW_TOKENS).saturating_mul(OFF_BY));
        return match (tokens > 0, complete) {
            (true, _) if tokens > explained => Cause::Elsewhere,
            (false, false) => Cause::Incomplete,
            _ if tokens.abs() <= explained => Cause::Estimated,
            _ => Cause::LessThere,
        };
    }
    if most == 0 {
        return if line.there.cost.unwrap_or_default().0 > FEW_NANOS { Cause::Extra } else { Cause::Same };
    }
    let cost = line.cost_apart().map_or(0, |apart| apart.0);
    let of = line.there.cost.unwrap_or_default().0;
    match far(cost, of, FEW_NANOS) {
        false => Cause::Same,
        true if unpriced > 0 => Cause::Unpriced,
        true if !complete => Cause::Incomplete,
        true => Cause::Price,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: i64 = 20 * DAY;

    fn reported(day: i64, hint: &str, tokens: i64, cents: i64) -> Reported {
        Reported {
            day: Moment(day * DAY),
            api_key: "apikey_1".into(),
            model: "claude-haiku-4-5-20251001".into(),
            key_name: "prod".into(),
            key_hint: hint.into(),
            requests: None,
            tokens,
            cost: Some(Nanos(cents * 10_000_000)),
            fetched_at: Moment(TODAY),
        }
    }

    fn recorded(day: i64, tokens: i64, cents: i64) -> Recorded {
        Recorded {
            day: Moment(day * DAY),
            key_name: "production".into(),
            version: 2,
            model: "claude-haiku-4-5".into(),
            requests: 3,
            tokens,
            cost: Nanos(cents * 10_000_000),
            estimated: 0,
            unpriced: 0,
        }
    }

    fn known(name: &str, version: i32, fingerprint: &str, day: i64) -> KnownKey {
        KnownKey {
            name: name.into(),
            version,
            hint: "sk-ant-api03-…igAA".into(),
            fingerprint: fingerprint.into(),
            since: Moment(day * DAY + 5),
            is_elsewhere: false,
        }
    }

    fn keys() -> Vec<KnownKey> {
        vec![known("production", 2, "f1", 1)]
    }

    const OURS: &str = "sk-ant-api03-R2D...igAA";

    #[test]
    fn keys_are_known_by_both_ends() {
        let same = |theirs| is_same_key(theirs, "sk-ant-api03-…igAA");
        assert!(same(OURS));
        assert!(!same("sk-ant-api03-R2D...igAB"));
        assert!(!same("sk-ant-api01-R2D...igAA"));
        assert!(!same(""));
        assert!(!same("...igAA"));
        assert!(is_same_key("sk-proj-****************excA", "sk-proj-…excA"));
        assert!(is_same_key("sk-abc...def1", "sk-…def1"));
        assert!(!is_same_key(OURS, "sk-ant-api03-…"));
    }

    #[test]
    fn each_difference_has_its_likely_cause() {
        let cause = |theirs: &[Reported], ours: &[Recorded]| {
            let lines = compare(theirs, ours, &keys(), Moment(TODAY));
            assert_eq!(lines.len(), 1, "{lines:?}");
            lines[0].cause
        };
        assert_eq!(cause(&[reported(10, OURS, 50_000, 90)], &[recorded(10, 50_000, 90)]), Cause::Same);
        // What checks of the key use is no alarm.
        assert_eq!(cause(&[reported(10, OURS, 50_900, 90)], &[recorded(10, 50_000, 90)]), Cause::Same);
        assert_eq!(cause(&[reported(10, OURS, 60_000, 99)], &[recorded(10, 50_000, 90)]), Cause::Elsewhere);
        assert_eq!(cause(&[reported(10, OURS, 40_000, 70)], &[recorded(10, 50_000, 90)]), Cause::LessThere);
        assert_eq!(cause(&[reported(19, OURS, 40_000, 70)], &[recorded(19, 50_000, 90)]), Cause::Incomplete);
        assert_eq!(cause(&[reported(10, OURS, 50_000, 70)], &[recorded(10, 50_000, 90)]), Cause::Price);
        let unpriced = Recorded { unpriced: 3, ..recorded(10, 50_000, 0) };
        assert_eq!(cause(&[reported(10, OURS, 50_000, 70)], &[unpriced]), Cause::Unpriced);
        let estimated = Recorded { estimated: 1, ..recorded(10, 50_000, 90) };
        assert_eq!(
            cause(&[reported(10, OURS, 60_000, 99)], std::slice::from_ref(&estimated)),
            Cause::Estimated
        );
        // One that broke off hides no use of the key elsewhere, nor that it is missing there.
        let thousands = Recorded { requests: 3_000, ..estimated };
        for there in [150_000, 0] {
            let wrong = if there > 0 { Cause::Elsewhere } else { Cause::LessThere };
            let ours = std::slice::from_ref(&thousands);
            assert_eq!(cause(&[reported(10, OURS, there, 99)], ours), wrong);
        }
        assert_eq!(cause(&[reported(10, "sk-ant-api03-xyz...Zz9y", 60_000, 99)], &[]), Cause::NotHere);
        // A key that Keyward has never sent anything with.
        assert_eq!(cause(&[reported(10, OURS, 5_000, 9)], &[]), Cause::Elsewhere);
        // Used on a day on which Keyward sent nothing with it.
        let theirs = [reported(10, OURS, 50_000, 90), reported(11, OURS, 5_000, 9)];
        let lines = compare(&theirs, &[recorded(10, 50_000, 90)], &keys(), Moment(TODAY));
        assert_eq!(lines[0].cause, Cause::Elsewhere);
        assert_eq!((lines[0].key.as_str(), lines[0].here.tokens), ("production@2", 0));
    }

    #[test]
    fn what_looks_like_a_leak_and_is_none_raises_no_alarm() {
        let causes = |theirs: &[Reported], ours: &[Recorded], keys: &[KnownKey]| {
            let mut lines = compare(theirs, ours, keys, Moment(TODAY));
            lines.sort_by_key(|line| line.day);
            lines.into_iter().map(|line| line.cause).collect::<Vec<_>>()
        };
        // Used directly until it was pasted here, on the day itself too; from then on it is an alarm.
        let theirs =
            [reported(9, OURS, 50_000, 90), reported(10, OURS, 50_000, 90), reported(11, OURS, 50_000, 90)];
        let pasted = [known("production", 2, "f1", 10)];
        assert_eq!(causes(&theirs, &[], &pasted), [Cause::Before, Cause::Before, Cause::Elsewhere]);
        // The same secret under two names is one key to the provider.
        let twice = [known("again", 1, "f1", 12), known("production", 2, "f1", 1)];
        let lines =
            compare(&[reported(10, OURS, 50_000, 90)], &[recorded(10, 50_000, 90)], &twice, Moment(TODAY));
        assert_eq!((lines.len(), lines[0].cause, lines[0].key.as_str()), (1, Cause::Same, "again@1"));
        // A request over midnight, which the provider counts on the next day.
        let theirs = [reported(10, OURS, 10_000, 20), reported(11, OURS, 60_000, 120)];
        let ours = [recorded(10, 50_000, 100), recorded(11, 20_000, 40)];
        assert_eq!(causes(&theirs, &ours, &keys()), [Cause::Shifted, Cause::Shifted]);
        // Less on one day, and not more on another.
        let (theirs, ours) = ([reported(10, OURS, 10_000, 20)], [recorded(10, 50_000, 100)]);
        assert_eq!(causes(&theirs, &ours, &keys()), [Cause::LessThere]);
        // What is charged for beside tokens is not another price for them.
        assert_eq!(causes(&[reported(10, OURS, 0, 500)], &[], &keys()), [Cause::Extra]);
    }

    #[test]
    fn both_sides_add_up() {
        let theirs: Vec<Reported> = (8..12).map(|day| reported(day, OURS, 5_000, 9)).collect();
        let ours: Vec<Recorded> = (9..13).map(|day| recorded(day, 5_000, 9)).collect();
        let lines = compare(&theirs, &ours, &keys(), Moment(TODAY));
        assert_eq!(lines.len(), 5);
        assert_eq!(lines.iter().map(|line| line.here.tokens).sum::<i64>(), 20_000);
        assert_eq!(lines.iter().map(|line| line.there.tokens).sum::<i64>(), 20_000);
    }
}
