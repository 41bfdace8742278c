//! The parts of the operations' description that the handlers and their types lack. Each function describes the operation of its name in
//! `routes.rs`; its name is the operation's id too.

use serde_json::json;

use super::Operation;
use crate::api::HistoryReply;

pub(super) const DESCRIPTION: &str = "\
Every client that reaches the admin address may read. Changes need `Authorization: Bearer TOKEN` if the configuration \
names an `admin.token_file`; otherwise they are allowed over loopback (by address, not by name) and over a Unix socket. \
The Host header must be an address, `localhost` or a name below it, one of `admin.hosts`, or, except over loopback, a \
name without a dot; any other request gets 421, unless it is for /heartbeat or /ready or carries the token. While \
clients are slow to read replies, other requests may get 503, but /heartbeat and /ready are answered. A request that a \
browser makes for a page of another server changes nothing. Bodies are JSON of at most 64 KiB. Errors have the shape \
`{\"error\": {\"code\", \"message\", \"hint\"}}`; those of /rep, /add and /rm have the shape of their other replies, \
`{\"message\", \"status\"}`. A method that a path lacks gets 405 with an Allow header. A request that is not HTTP, or has a \
head of more than 16 KiB, gets 400, 414 or 431 without a body.";

pub(super) const TAGS: [(&str, &str); 7] = [
    ("process", "The process as a whole."),
    ("listeners", "The listeners."),
    ("pools", "The pools."),
    ("backends", "The backends of a pool."),
    ("connections", "The open connections and the last decisions."),
    ("history", "What has happened."),
    ("replicas", "Backends that Pointsman itself starts, as containers."),
];

pub(super) fn heartbeat(o: &mut Operation<'_>) {
    o.about("process", "Whether the process lives, whatever the backends do.").reply_where(
        200,
        "It lives.",
        json!({"properties": {"status": {"const": "alive"}}}),
    );
}

pub(super) fn ready(o: &mut Operation<'_>) {
    let ready =
        json!({"$ref": "#/components/schemas/Acknowledgement", "properties": {"status": {"const": "ready"}}});
    o.about("process", "Whether traffic should be sent here.")
        .description("503 while it starts, and from the first moment of a drain.")
        .content(200, "It should.", "application/json", ready)
        .errors(&[503]);
}

pub(super) fn metrics(o: &mut Operation<'_>) {
    let text = "application/openmetrics-text";
    o.about("process", "Metrics for Prometheus.").content(
        200,
        "The metrics.",
        text,
        json!({"type": "string"}),
    );
}

pub(super) fn openapi(o: &mut Operation<'_>) {
    let description = json!({"type": "object", "required": ["openapi", "paths"]});
    o.about("process", "This description.").content(200, "OpenAPI 3.1.", "application/json", description);
}

pub(super) fn status(o: &mut Operation<'_>) {
    o.about("process", "Everything at a glance.").reply(200, "The program as it is now.");
}

pub(super) fn problems(o: &mut Operation<'_>) {
    o.about("process", "What is wrong now, since when, and how near the limits are.")
        .description(
            "The worst first. A problem keeps its beginning while it lasts and is gone with its cause; failures count while \
             they are within the window.",
        )
        .reply(200, "The problems, and the capacity.");
}

pub(super) fn config(o: &mut Operation<'_>) {
    let part = json!({"type": "object"});
    let config = json!({
        "description": "The configuration, in the shape of the file with every default filled in. `pointsman schema` prints \
            its JSON Schema. A dollar sign is written as `$$`, as in the file.",
        "type": "object",
        "required": ["runtime", "log", "listeners", "pools"],
        "additionalProperties": false,
        "properties": {"runtime": part, "log": part, "admin": part, "listeners": part, "pools": part},
    });
    o.about("process", "The configuration in force.").content(
        200,
        "The configuration.",
        "application/json",
        config,
    );
}

pub(super) fn check(o: &mut Operation<'_>) {
    o.about("process", "Check backends at once.")
        .description(
            "All backends, those of a pool, or one. Replies when the checks have ended, or after twice the longest of \
             their time limits.",
        )
        .example("all", json!({}))
        .example("pool", json!({"pool": "web"}))
        .reply_where(200, "The checks have ended.", json!({"properties": {"pending": {"const": 0}}}))
        .reply(202, "Some have not ended in time, and go on.")
        .errors(&[404, 409]);
}

pub(super) fn reload(o: &mut Operation<'_>) {
    o.about("process", "Read the configuration again, as SIGHUP does.")
        .description(
            "422: the file has problems, all of which the message names, as `pointsman check` does. 409: it cannot be \
             put to work, or there is no file. After an error nothing has changed.",
        )
        .reply(200, "It is in force.")
        .errors(&[409, 422]);
}

pub(super) fn plan_reload(o: &mut Operation<'_>) {
    o.about("process", "What a reload would change, and which open connections that concerns.")
        .description("Reads the file, and changes nothing. Errors are those of a reload.")
        .reply(200, "The changes; none if the list is empty.")
        .errors(&[409, 422]);
}

pub(super) fn undo_reload(o: &mut Operation<'_>) {
    o.about("process", "Apply the configuration before the last reload again.")
        .description(
            "The file stays as it is, and the next reload applies it. A second undo returns to the configuration before the \
             first. 409: no reload has changed anything, or the configuration cannot be put to work.",
        )
        .reply(200, "The configuration before is in force.")
        .errors(&[409, 422]);
}

pub(super) fn hand_over(o: &mut Operation<'_>) {
    o.about("process", "Hand over to a process that waits at a Unix socket, as `pointsman run --take-over` does.")
        .description(
            "That process gets the listening sockets; when it accepts connections, this one drains and stops. If it fails, \
             this one continues. Meanwhile changes get 503 with the code `handing_over`. 409: the process cannot be \
             reached, or runs as another user.",
        )
        .reply(202, "The hand-over begins.")
        .errors(&[409]);
}

pub(super) fn drain(o: &mut Operation<'_>) {
    o.about("process", "Drain and stop, as SIGTERM does.")
        .description(
            "For `runtime.drain.grace` it is not ready but still accepts; then it accepts no new connections, and stops \
             when the last one has ended or the time is up.",
        )
        .reply(202, "The drain begins.")
        .errors(&[409]);
}

pub(super) fn drain_forecast(o: &mut Operation<'_>) {
    o.about("process", "How long a drain would take, or will still take.")
        .description(
            "Of the whole process, a listener, a pool or a backend. The forecast is based on how long the connections of the \
             same pools have lasted so far. This request drains nothing.",
        )
        .reply(200, "The forecast.")
        .errors(&[404]);
}

pub(super) fn listeners(o: &mut Operation<'_>) {
    o.about("listeners", "All listeners.").reply(200, "The listeners.");
}

pub(super) fn listener(o: &mut Operation<'_>) {
    o.about("listeners", "One listener.").reply(200, "The listener.").errors(&[404]);
}

pub(super) fn change_listener(o: &mut Operation<'_>) {
    o.about("listeners", "Drain a listener, or take that back.")
        .description(
            "`draining`: its addresses are closed, so that new clients are refused; open connections continue. `up`: the \
             addresses are opened again. The change holds through reloads and hand-overs, until the listener is removed or \
             the process stops. 409 in a demo, and while the process drains.",
        )
        .example("drain", json!({"state": "draining"}))
        .example("up", json!({"state": "up"}))
        .reply(200, "The listener as it is now.")
        .errors(&[404, 409]);
}

pub(super) fn pools(o: &mut Operation<'_>) {
    o.about("pools", "All pools.").reply(200, "The pools.");
}

pub(super) fn pool(o: &mut Operation<'_>) {
    o.about("pools", "One pool.").reply(200, "The pool.").errors(&[404]);
}

pub(super) fn shadow(o: &mut Operation<'_>) {
    o.about("pools", "What other algorithms would have done with the same connections.")
        .description("409 unless the configuration of the pool has `shadow`.")
        .reply(200, "The comparison.")
        .errors(&[404, 409]);
}

pub(super) fn backends(o: &mut Operation<'_>) {
    o.about("backends", "The backends of a pool.").reply(200, "The backends.").errors(&[404]);
}

pub(super) fn add_backend(o: &mut Operation<'_>) {
    o.about("backends", "Add a backend.")
        .description(
            "It is checked like any other before it gets connections. It stays through reloads until it is deleted or \
             its pool is removed, but not through a restart. A weight above 1 needs an algorithm that uses weights.",
        )
        .example("address", json!({"address": "127.0.0.1:5009"}))
        .example("all", json!({"address": "[::1]:5009", "name": "spare", "weight": 1, "backup": true, "zone": "eu-1a"}))
        .reply(201, "It was added.")
        .errors(&[404, 409]);
}

pub(super) fn backend(o: &mut Operation<'_>) {
    o.about("backends", "One backend.").reply(200, "The backend.").errors(&[404, 409]);
}

pub(super) fn change_backend(o: &mut Operation<'_>) {
    o.about("backends", "Change a backend's administrative state or weight.")
        .description(
            "All of the change, or nothing. `draining`: no new connections; existing ones follow `on_drain`. \
             `maintenance`: the same, without checks. `up` takes either back: a backend whose checks fail stays down. \
             The change holds through reloads and ends when the backend leaves the pool; so does a weight, even when \
             the configuration changes it.",
        )
        .example("drain", json!({"state": "draining"}))
        .example("weight", json!({"weight": 3}))
        .reply(200, "The backend as it is now.")
        .errors(&[404, 409]);
}

pub(super) fn remove_backend(o: &mut Operation<'_>) {
    o.about("backends", "Remove a backend that was added here.")
        .description(
            "Its connections follow `on_leave`. A backend that a source of the configuration reports cannot be removed, \
             as it would come back: drain it instead.",
        )
        .reply(200, "The backend as it is now, or as it was last.")
        .errors(&[404, 409]);
}

pub(super) fn connections(o: &mut Operation<'_>) {
    o.about("connections", "The open connections, the oldest first.")
        .reply(200, "The connections, and how many match.")
        .errors(&[404]);
}

pub(super) fn end_connection(o: &mut Operation<'_>) {
    o.about("connections", "Close a connection, also one that waits in a queue.")
        .reply(200, "The connection as it was.")
        .errors(&[404]);
}

pub(super) fn decisions(o: &mut Operation<'_>) {
    o.about("connections", "The last routing decisions, the newest first.")
        .description(
            "`runtime.records` says how many are kept. Those of connections that failed or were retried are kept apart, so \
             that successful ones do not push them out.",
        )
        .reply(200, "The decisions.")
        .errors(&[404]);
}

pub(super) fn journal(o: &mut Operation<'_>) {
    o.about("history", "What has happened, the oldest first.")
        .description(
            "To miss none, ask for those after the last one of the reply before. The last 4,096 are kept.",
        )
        .reply(200, "The events.");
}

pub(super) fn history(o: &mut Operation<'_>) {
    o.about("history", "What was counted in each second of the last five minutes, ten seconds of the last hour, or minute of the last day.")
        .reply_of::<HistoryReply>(200, "The history.");
}

pub(super) fn events(o: &mut Operation<'_>) {
    let events = "`hello` {version, latest}; each second `status`, as at /api/v1/status; `decisions` {decisions: the newest \
                  first, at most 20}; `event`, as at /api/v1/journal, whose number is the event's id; `lagged` {missed} \
                  before events that were not kept.";
    o.about("history", "What happens, as it happens (Server-Sent Events).")
        .header(
            "Last-Event-ID",
            "The number of the last event received: none after it that is kept is missed.",
        )
        .content(200, events, "text/event-stream", json!({"type": "string"}));
}

pub(super) fn logs(o: &mut Operation<'_>) {
    let line = json!({
        "description": "Each event.",
        "type": "object",
        "additionalProperties": false,
        "required": ["event", "data"],
        "properties": {
            "event": {"description": "Its kind.", "type": "string", "enum": ["line", "skipped"]},
            "id": {"description": "The number of the line.", "type": "string"},
            "data": {"description": "The line, or how many lines are missing.", "type": "string"},
        },
    });
    let lines = "`line`, as it was written, whose number is the event's id; `skipped` {lines} before lines that were not \
                 kept.";
    o.about("history", "The last lines of the log, and those that follow (Server-Sent Events).")
        .header(
            "Last-Event-ID",
            "The number of the last line received: none after it that is kept is missed.",
        )
        .content(200, lines, "text/event-stream", line);
}

pub(super) fn why(o: &mut Operation<'_>) {
    o.about("history", "Why a client's connections went where they went, or why a backend is in its state.")
        .description(
            "About a client, a connection, or a pool and one of its backends. About a client it begins with a summary. \
             Connections that failed or were retried are kept apart (`runtime.records`), so that successful ones do not \
             push them out. A backend that has left is described as long as it is remembered.",
        )
        .reply(200, "The sentences, and what they are made from.")
        .errors(&[404]);
}

pub(super) fn story(o: &mut Operation<'_>) {
    o.about("history", "What happened lately, in sentences.").reply(200, "The story.").errors(&[404]);
}

pub(super) fn replicas(o: &mut Operation<'_>) {
    o.about("replicas", "The replicas of all pools, and how their number was decided.")
        .reply(200, "The replicas.");
}

pub(super) fn list_replicas(o: &mut Operation<'_>) {
    o.about("replicas", "The replicas to run: how many, and their names.")
        .reply(200, "The replicas.")
        .errors(&[404]);
}

pub(super) fn add_replicas(o: &mut Operation<'_>) {
    o.about("replicas", "Start replicas.")
        .description(
            "All of them or, on failure, none. Replies when their containers were started; they get connections once they \
             are up.",
        )
        .example("number", json!({"n": 2}))
        .example("names", json!({"n": 2, "hostnames": ["Server 4"]}))
        .reply(200, "The replicas to run from now on.")
        .errors(&[404, 409, 502, 504]);
}

pub(super) fn remove_replicas(o: &mut Operation<'_>) {
    o.about("replicas", "Remove replicas.")
        .description(
            "Replies when they get no new connections. Then they finish their connections, and their containers are \
             stopped and removed.",
        )
        .example("number", json!({"n": 2}))
        .example("names", json!({"n": 1, "hostnames": ["Server 4"]}))
        .reply(200, "The replicas to run from now on.")
        .errors(&[404, 409, 504]);
}
