//! What can be set at start and at run time.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Kinds of requests, as faults and counters tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// GetObject.
    Get,
    /// HeadObject.
    Head,
    /// PutObject without a condition.
    Put,
    /// PutObject with `If-None-Match` or `If-Match`.
    PutIf,
    /// DeleteObject.
    Delete,
    /// DeleteObjects.
    DeleteMany,
    /// ListObjects, either version.
    List,
    /// Anything of buckets, and what is not supported.
    Other,
}

/// How conditions of writes are treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditions {
    /// Checked in one step with the write.
    #[default]
    Atomic,
    /// Checked when the request begins, as some servers do: right as long as requests do not race.
    Racy,
    /// Ignored, as some servers do.
    Ignored,
    /// Refused as not implemented (501), as some servers do.
    Refused,
}

/// How the server behaves as a whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Pause before every answer, milliseconds.
    pub delay_ms: u64,
    /// Further pause by verb, milliseconds.
    pub delay_ms_by_verb: BTreeMap<Verb, u64>,
    /// Shared by all bodies in both directions, bytes per second; 0 is no limit.
    pub bandwidth: u64,
    /// Added to the clock that the server tells, seconds.
    pub clock_offset_s: i64,
    /// Answer listings in an order of their own.
    pub unsorted_lists: bool,
    /// Treatment of conditions.
    pub conditions: Conditions,
    /// Refuse DeleteObjects as not implemented.
    pub no_delete_many: bool,
    /// Refuse a PUT without a checksum in a header, as buckets with Object Lock do.
    pub needs_checksums: bool,
    /// Access keys and their secret keys.
    pub keys: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            delay_ms: 0,
            delay_ms_by_verb: BTreeMap::new(),
            bandwidth: 0,
            clock_offset_s: 0,
            unsorted_lists: false,
            conditions: Conditions::Atomic,
            no_delete_many: false,
            needs_checksums: false,
            keys: BTreeMap::from([("s3d-access".to_string(), "s3d-secret".to_string())]),
        }
    }
}

/// What happens to a request that a rule matches.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Wait before the request is looked at, milliseconds.
    Delay {
        /// How long.
        ms: u64,
    },
    /// Read the request, apply nothing, answer this.
    Reject {
        /// HTTP status.
        status: u16,
        /// S3 error code; by default one that fits the status.
        #[serde(default)]
        code: Option<String>,
        /// `Retry-After`, seconds.
        #[serde(default)]
        retry_after_s: Option<u64>,
    },
    /// Apply, then answer this instead of the result.
    RejectAfter {
        /// HTTP status.
        status: u16,
    },
    /// Apply, then answer as something between the client and the store would that lost its patience.
    GatewayAfter {
        /// HTTP status; `None`: any from 400 to 599, at random.
        #[serde(default)]
        status: Option<u16>,
        /// What stands below it; `None`: any, at random.
        #[serde(default)]
        body: Option<GatewayBody>,
    },
    /// Read the request, apply nothing, close the connection.
    DropBefore,
    /// Read this many bytes of the body, then close the connection.
    DropMidway {
        /// How many.
        bytes: u64,
    },
    /// Apply, then close the connection without an answer.
    DropAfter,
    /// Close the connection after this many bytes of the answer's body.
    Truncate {
        /// How many.
        bytes: u64,
    },
    /// Invert the byte at this offset of the answer's body.
    Flip {
        /// Which one.
        offset: u64,
    },
    /// Never answer, until `release` or the client goes.
    Stall,
    /// Send this many bytes of the answer's body, then nothing until `release` or the client goes.
    StallMidway {
        /// How many.
        bytes: u64,
    },
    /// Apply, then hold the answer back until `release` or the client goes.
    HoldAnswer,
}

/// The body of an answer that is not the store's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayBody {
    /// None.
    Empty,
    /// A page for people.
    Html,
    /// An S3 error document of a code that tells nothing about the write.
    Xml,
}

/// A fault and the requests that it befalls. The first rule that matches a request counts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FaultRule {
    /// `None`: any.
    #[serde(default)]
    pub verb: Option<Verb>,
    /// Part of the key (of a listing: of its prefix); `None`: any.
    #[serde(default)]
    pub key_contains: Option<String>,
    /// Matching requests that are let through first.
    #[serde(default)]
    pub skip: u64,
    /// Requests left to befall; `None`: no end.
    #[serde(default)]
    pub times: Option<u64>,
    /// Of the matching requests this part is befallen, at random.
    #[serde(default = "always")]
    pub chance: f64,
    /// The fault.
    pub action: Action,
}

fn always() -> f64 {
    1.0
}

impl FaultRule {
    /// Befalls every request.
    pub fn new(action: Action) -> FaultRule {
        FaultRule {
            verb: None,
            key_contains: None,
            skip: 0,
            times: None,
            chance: 1.0,
            action,
        }
    }

    /// Only of this kind.
    pub fn verb(self, verb: Verb) -> FaultRule {
        FaultRule {
            verb: Some(verb),
            ..self
        }
    }

    /// Only where the key has this part.
    pub fn key(self, part: impl Into<String>) -> FaultRule {
        FaultRule {
            key_contains: Some(part.into()),
            ..self
        }
    }

    /// Only after so many others.
    pub fn skip(self, skip: u64) -> FaultRule {
        FaultRule { skip, ..self }
    }

    /// Only the next so many.
    pub fn times(self, times: u64) -> FaultRule {
        FaultRule {
            times: Some(times),
            ..self
        }
    }

    /// Only some, at random.
    pub fn chance(self, chance: f64) -> FaultRule {
        FaultRule { chance, ..self }
    }

    fn matches(&self, verb: Verb, key: &str) -> bool {
        self.verb.is_none_or(|wanted| wanted == verb)
            && self
                .key_contains
                .as_ref()
                .is_none_or(|part| key.contains(part.as_str()))
            && self.times != Some(0)
    }
}

/// Rules in their order, with the randomness of their chances.
#[derive(Debug)]
pub(super) struct Faults {
    rules: Vec<FaultRule>,
    random: u64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        Faults {
            rules: Vec::new(),
            // Odd, as a xorshift stays at 0, and another one for each seed.
            random: (seed << 1) | 1,
        }
    }

    pub(super) fn add(&mut self, rule: FaultRule) {
        self.rules.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What befalls this request.
    pub(super) fn take(&mut self, verb: Verb, key: &str) -> Option<Action> {
        for index in 0..self.rules.len() {
            if !self.rules[index].matches(verb, key) || self.fraction() >= self.rules[index].chance {
                continue;
            }
            let rule = &mut self.rules[index];
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(times) = rule.times.as_mut() {
                *times -= 1;
            }
            let action = rule.action.clone();
            return Some(self.settled(action));
        }
        None
    }

    /// What is left to chance in an action, drawn.
    fn settled(&mut self, action: Action) -> Action {
        let Action::GatewayAfter { status, body } = action else {
            return action;
        };
        let drawn = 400 + (self.fraction() * 200.0) as u16;
        let bodies = [GatewayBody::Empty, GatewayBody::Html, GatewayBody::Xml];
        let drawn_body = bodies[(self.fraction() * 3.0) as usize];
        Action::GatewayAfter {
            status: status.or(Some(drawn)),
            body: body.or(Some(drawn_body)),
        }
    }

    /// In [0, 1), by xorshift: a run repeats with its seed.
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}
