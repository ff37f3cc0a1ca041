//! A message as server-sent events, in the provider's order.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::message::{Block, Message, Usage};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event<'a> {
    MessageStart { message: Message },
    ContentBlockStart { index: usize, content_block: Block },
    Ping,
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Ending, usage: Usage },
    MessageStop,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
}

#[derive(Serialize)]
struct Ending {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    stop_details: Option<Value>,
    container: Option<Value>,
}

/// The events of a message, one frame each.
pub fn frames(message: &Message) -> Vec<Bytes> {
    let mut frames = vec![frame(&Event::MessageStart { message: message.opening() })];
    for (index, block) in message.content.iter().enumerate() {
        frames.push(frame(&Event::ContentBlockStart { index, content_block: hollow(block) }));
        if index == 0 {
            frames.push(frame(&Event::Ping));
        }
        frames
            .extend(deltas(block).into_iter().map(|delta| frame(&Event::ContentBlockDelta { index, delta })));
        frames.push(frame(&Event::ContentBlockStop { index }));
    }
    let ending =
        Ending { stop_reason: message.stop_reason, stop_sequence: None, stop_details: None, container: None };
    frames.push(frame(&Event::MessageDelta { delta: ending, usage: message.usage.cumulative() }));
    frames.push(frame(&Event::MessageStop));
    frames
}

/// A block as it begins. Results of server tools come whole.
fn hollow(block: &Block) -> Block {
    match block {
        Block::Text { .. } => Block::Text { text: String::new() },
        Block::Thinking { .. } => Block::Thinking { thinking: String::new(), signature: String::new() },
        Block::ServerToolUse { id, name, .. } => {
            Block::ServerToolUse { id: id.clone(), name, input: json!({}) }
        }
        Block::WebSearchToolResult { .. } => block.clone(),
    }
}

fn deltas(block: &Block) -> Vec<Delta<'_>> {
    match block {
        Block::Text { text } => text.split_inclusive(' ').map(|text| Delta::Text { text }).collect(),
        Block::Thinking { thinking, signature } => thinking
            .split_inclusive(' ')
            .map(|thinking| Delta::Thinking { thinking })
            .chain([Delta::Signature { signature }])
            .collect(),
        Block::ServerToolUse { input, .. } => {
            vec![Delta::InputJson { partial_json: input.to_string() }]
        }
        Block::WebSearchToolResult { .. } => Vec::new(),
    }
}

fn frame(event: &Event<'_>) -> Bytes {
    let name = match event {
        Event::MessageStart { .. } => "message_start",
        Event::ContentBlockStart { .. } => "content_block_start",
        Event::Ping => "ping",
        Event::ContentBlockDelta { .. } => "content_block_delta",
        Event::ContentBlockStop { .. } => "content_block_stop",
        Event::MessageDelta { .. } => "message_delta",
        Event::MessageStop => "message_stop",
    };
    let data = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}
