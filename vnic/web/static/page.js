// SPDX-License-Identifier: GPL-2.0-or-later
// Draws what the server tells over the WebSocket.  A message has the parts that changed: a part is drawn whole, counters
// and call trees one by one.  All that comes is put in as text (textContent); of the one picture, only shapes and text.

const $ = (id) => document.getElementById(id);
const HISTORY = 60;      // call trees that are kept
const WINDOW = 2;        // seconds over which rates are taken
const RETRY_MS = 1000;
const MARK_MS = 1500;    // that what changed is marked

const wish = { trees: "segments", port: null, chosen: null, tables: "text" };
let socket = null;
let failures = 0;

// -- the connection ------------------------------------------------------------------------------------------------

function connect() {
  const url = new URL("live", location.href);
  url.protocol = "ws:";
  const mine = socket = new WebSocket(url);
  mine.onopen = () => { failures = 0; counts.clear(); $("counts").replaceChildren(); tell(); };
  mine.onmessage = (event) => { status("live", "● live"); show(JSON.parse(event.data)); };
  mine.onclose = () => { if (mine === socket) lost(); };
}

function lost() {
  failures += 1;
  const more = failures > 5 ? " (one that was started anew has another address: it printed it)" : "";
  status("lost", `✕ the back end does not answer; trying again${more}`);
  setTimeout(() => { if (!document.hidden) connect(); }, RETRY_MS);
}

function status(kind, text) {
  if ($("status").textContent === text) return;
  $("status").className = kind;
  $("status").textContent = text;
}

// A page that nobody sees asks for nothing: the stack is not traced for it.
document.addEventListener("visibilitychange", () => {
  const open = socket && socket.readyState <= WebSocket.OPEN;
  if (document.hidden && open) {
    const old = socket;
    socket = null;
    old.close();
    status("lost", "✕ asleep while it is not seen");
  } else if (!document.hidden && !open) {
    connect();
  }
});

function tell() {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wish));
}

function show(message) {
  for (const [name, draw] of Object.entries(parts)) {
    if (name in message) draw(message[name]);
  }
  count(message.at, message.counters);
  if (message.trees) collect(message.trees, message.skipped);
}

const parts = {
  about: drawAbout, connections: drawConnections, listeners: drawListeners, detail: drawDetail, tables: drawTables,
  tracing: drawTracing,
};

// -- rows ----------------------------------------------------------------------------------------------------------

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

// Rows keep their elements, so that focus and selection stay: [key, [[text, class], ...]].
function fill(body, rows) {
  const wanted = new Set(rows.map(([key]) => key));
  const old = new Map();
  for (const row of [...body.rows]) {
    if (wanted.has(row.dataset.key)) old.set(row.dataset.key, row);
    else row.remove();
  }
  rows.forEach(([key, cells], at) => {
    let row = old.get(key);
    if (!row) {
      row = element("tr");
      row.dataset.key = key;
      cells.forEach(() => row.append(element("td")));
    }
    cells.forEach(([text, className = ""], i) => put(row.cells[i], String(text ?? ""), className, old.has(key)));
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
  });
}

function put(cell, text, className, known) {
  const target = cell.firstElementChild ?? cell;
  if (target.textContent !== text) {
    target.textContent = text;
    if (known) mark(cell);
  }
  const wanted = cell.classList.contains("moved") ? `${className} moved`.trim() : className;
  if (cell.className !== wanted) cell.className = wanted;
}

const marked = new Map();   // cell -> the timer that ends its mark

function mark(cell) {
  clearTimeout(marked.get(cell));
  cell.classList.add("moved");
  marked.set(cell, setTimeout(() => { marked.delete(cell); cell.classList.remove("moved"); }, MARK_MS));
}

function drawAbout(about) {
  const link = about.link_up ? "▲ guest connected" : "▽ no guest";
  $("who").textContent = [link, about.addresses.join(" "), about.profile, about.port, `pid ${about.pid}`].join(" · ");
}

const OPENING = ["SYN-SENT", "SYN-RECV"];
const MARKS = { open: "●", opening: "◐", closing: "○" };

function stateCell(state) {
  const kind = state === "ESTAB" ? "open" : OPENING.includes(state) ? "opening" : "closing";
  return [`${MARKS[kind]} ${state}`, `state-${kind}`];
}

// An address of IPv6 may take two lines.
function endCell(text) {
  return [text, text.startsWith("[") ? "end" : ""];
}

function drawConnections({ rows, more, states }) {
  const body = document.querySelector("#connections tbody");
  fill(body, rows.map((row) => [row.key, [
    stateCell(row.state), [row.recv_q, "n"], [row.send_q, "n"], endCell(row.local), endCell(row.peer),
    [row.cwnd, "n"], [row.rtt_us == null ? "" : (row.rtt_us / 1000).toFixed(2), "n"], [row.retrans, "n"], [row.timer],
  ]]));
  for (const row of body.rows) {
    const cell = row.cells[4];
    if (!cell.firstElementChild) {
      const button = element("button", "", cell.textContent);
      button.type = "button";
      button.title = "TCP_INFO and call trees of this connection";
      cell.replaceChildren(button);
      button.addEventListener("click", () => choose(row.dataset.key));
    }
    row.classList.toggle("chosen", row.dataset.key === wish.chosen);
  }
  const counted = Object.entries(states).map(([state, n]) => `${n} ${state}`);
  $("states").textContent = counted.join(", ") || "none";
  $("connections-more").textContent = more ? `and ${more} more: a port narrows it down` : "";
}

function drawListeners({ rows, more }) {
  fill(document.querySelector("#listeners tbody"), rows.map((row) => {
    const full = row.backlog !== null && row.recv_q > row.backlog;
    const queue = full ? [`${row.recv_q} full`, "n full"] : [row.recv_q, "n"];
    return [`${row.netid} ${row.local}`,
      [[row.netid], [row.local], queue, [row.backlog, "n"], [row.qlen, "n"], [row.young, "n"]]];
  }));
  $("listeners-more").textContent = more ? `and ${more} more` : "";
}

// -- one connection ------------------------------------------------------------------------------------------------

function choose(key) {
  wish.chosen = key === wish.chosen ? null : key;
  for (const row of document.querySelectorAll("#connections tbody tr")) {
    row.classList.toggle("chosen", row.dataset.key === wish.chosen);
  }
  document.querySelector("#detail tbody").replaceChildren();
  follow();
  tell();
}

function drawDetail(detail) {
  $("detail").hidden = wish.chosen === null;
  if (!detail || wish.chosen === null) return;
  $("detail-head").textContent = detail.gone ? `${wish.chosen}: it is gone; these are its last values` : detail.head;
  if (detail.gone) return;
  $("detail-words").textContent = detail.words.join("  ");
  fill(document.querySelector("#detail tbody"), detail.rows.map(([name, value, meaning]) =>
    [name, [[name.replace("tcpi_", "")], [value], [meaning, "wrap"]]]));
}

$("detail-close").addEventListener("click", () => choose(wish.chosen));

// -- counters ------------------------------------------------------------------------------------------------------

const counts = new Map();   // name -> { value, past: [[at, value], ...], row }
const GROUPS = ["Tcp", "TcpExt", "Ip", "IpExt", "Udp", "Icmp"];

function rank(name) {
  if (name.startsWith("drop ")) return "0";
  if (name.includes(" ")) return `1${name}`;
  const group = GROUPS.findLastIndex((known) => name.startsWith(known));
  return `${group < 0 || name.includes("6") ? 9 : group + 2}${name}`;
}

function count(at, changed) {
  const first = counts.size === 0;
  for (const [name, value] of Object.entries(changed)) {
    const known = counts.get(name) ?? addCount(name, [[at, first ? value : 0]]);
    known.value = value;
    known.past.push([at, value]);
    known.row.children[1].textContent = value;
  }
  for (const known of counts.values()) {
    while (known.past.length > 1 && known.past[1][0] <= at - WINDOW) known.past.shift();
    const rate = (known.value - known.past[0][1]) / WINDOW;
    const text = rate ? `${rate > 0 ? "+" : ""}${+rate.toPrecision(3)}/s` : "";
    if (known.row.lastChild.textContent === text) continue;
    known.row.lastChild.textContent = text;
    known.row.classList.toggle("moved", rate !== 0);
  }
}

function addCount(name, past) {
  const row = element("div", "count");
  row.dataset.name = name;
  row.append(element("span", "", name), element("span"), element("span", "rate"));
  const next = [...$("counts").children].find((other) => rank(other.dataset.name) > rank(name));
  $("counts").insertBefore(row, next ?? null);
  const made = { value: 0, past, row };
  counts.set(name, made);
  return made;
}

$("moving").addEventListener("change", () => $("counters").classList.toggle("moving", $("moving").checked));

// -- call trees ----------------------------------------------------------------------------------------------------

let history = [];           // newest first
let followed = true;        // the newest one is shown, not one that was chosen
let shown = null;
let skipped = 0;
let tracing = "";
const folded = new Set();   // paths of functions that the user has folded

function collect(trees, left) {
  skipped += left;
  if (trees.length === 0 && !left) return;
  history = [...trees.reverse(), ...history].slice(0, HISTORY);
  drawTrees();
}

function wanted(tree) {
  if (wish.chosen !== null && tree.flow !== wish.chosen) return false;
  const ports = [...tree.flow.matchAll(/:(\d+)(?= <|$)/g)].map((found) => Number(found[1]));
  return wish.port === null || ports.includes(wish.port);
}

function follow() {
  followed = true;
  drawTrees();
}

function drawTrees() {
  const list = history.filter(wanted);
  if (followed) shown = list[0] ?? null;
  $("newest").disabled = followed;
  const there = new Map([...$("recent").children].map((item) => [Number(item.dataset.number), item]));
  const items = list.map((tree) => there.get(tree.number) ?? recentItem(tree));
  for (const [number, item] of there) if (!list.some((tree) => tree.number === number)) item.remove();
  items.forEach((item, at) => {
    if ($("recent").children[at] !== item) $("recent").insertBefore(item, $("recent").children[at] ?? null);
    const current = shown !== null && Number(item.dataset.number) === shown.number;
    item.firstChild.setAttribute("aria-current", String(current));
  });
  drawTree();
  drawTracing(tracing);
}

function recentItem(tree) {
  const item = element("li");
  item.dataset.number = tree.number;
  const button = element("button", "", headOf(tree));
  button.type = "button";
  button.addEventListener("click", () => { followed = false; shown = tree; drawTrees(); });
  item.append(button);
  return item;
}

function headOf(tree) {
  const states = tree.before === tree.after ? tree.before : `${tree.before} → ${tree.after}`;
  const root = tree.root === "tcp_v4_rcv" || tree.root === "tcp_v6_rcv" ? "" : tree.root;
  return [`${tree.at.toFixed(3)} s`, tree.flow, root, states].filter(Boolean).join("  ");
}

function drawTree() {
  const number = String(shown ? shown.number : "");
  if ($("tree").dataset.number === number) return;
  $("tree").dataset.number = number;
  $("tree-head").textContent = shown ? headOf(shown) : "";
  $("tree").replaceChildren(...(shown ? nodes(outline(shown.lines), "") : []));
}

// "  " per level becomes { text, below }.
function outline(lines) {
  const top = { below: [] };
  const open = [top];
  for (const line of lines) {
    const text = line.trimStart();
    const depth = text ? Math.floor((line.length - text.length) / 2) : open.length - 1;
    open.length = Math.min(open.length, depth + 1);
    const made = { text, below: [] };
    open.at(-1).below.push(made);
    if (text) open.push(made);
  }
  return top.below;
}

function nodes(items, path) {
  return items.map(({ text, below }) => {
    if (!text) return element("div", "gap");
    const own = `${path}/${text}`;
    const node = element(below.length ? "details" : "div", below.length ? "" : "line");
    const line = below.length ? element("summary") : node;
    const [, arrow, call, remark] = /^(-> )?(.*?)(  \/\/ .*)?$/.exec(text);
    line.append(element("span", "arrow", arrow ?? ""), call, element("span", "remark", remark ?? ""));
    if (below.length) {
      node.append(line, ...nodes(below, own));
      node.open = !folded.has(own);
      node.addEventListener("toggle", () => (node.open ? folded.delete(own) : folded.add(own)));
    }
    return node;
  });
}

function drawTracing(text) {
  tracing = text;
  const of = wish.chosen === null ? "" : `only ${wish.chosen}; `;
  const left = skipped ? `; ${skipped} came too fast and are not shown` : "";
  const texts = {
    on: `${of}tracing slows the stack while you look${left}`,
    off: "paused: nothing is traced",
  };
  $("tracing").textContent = texts[text] ?? `no call trees: ${text}`;
}

$("pause").addEventListener("click", () => {
  const paused = wish.trees !== null;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  wish.trees = paused ? null : $("kind").value;
  tell();
});
$("newest").addEventListener("click", follow);
$("kind").addEventListener("change", () => {
  if (wish.trees !== null) wish.trees = $("kind").value;
  tell();
});
$("port").addEventListener("input", () => {
  if (!$("port").checkValidity()) return;
  wish.port = $("port").value === "" ? null : Number($("port").value);
  follow();
  tell();
});

// -- the tables ----------------------------------------------------------------------------------------------------

const SHAPES = new Set(["svg", "g", "polygon", "polyline", "path", "text", "title"]);
const ATTRIBUTES = new Set([
  "width", "height", "viewBox", "transform", "points", "d", "fill", "stroke", "x", "y", "text-anchor", "font-family",
  "font-size", "class",
]);

function drawTables(tables) {
  const { text, svg, error, more } = tables ?? {};
  const left = more ? `${more} more sockets are not drawn` : "";
  $("tables-note").textContent = [error, left].filter(Boolean).join("; ");
  if (svg) $("picture").replaceChildren(picture(svg));
  else $("picture").replaceChildren(...(text ? [element("pre", "", text)] : []));
}

function picture(text) {
  const made = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  for (const node of [made, ...made.querySelectorAll("*")]) {
    if (!SHAPES.has(node.localName)) node.remove();
    for (const { name } of [...node.attributes]) if (!ATTRIBUTES.has(name)) node.removeAttribute(name);
  }
  return document.importNode(made, true);
}

$("form").addEventListener("change", () => {
  wish.tables = $("form").value || null;
  tell();
});

connect();
