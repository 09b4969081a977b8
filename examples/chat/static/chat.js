"use strict";

const $ = (id) => document.getElementById(id);
let source;

function show(event) {
  const message = JSON.parse(event.data);
  const item = document.createElement("li");
  item.dataset.id = event.lastEventId;
  const name = document.createElement("b");
  name.textContent = message.name;
  const time = document.createElement("time");
  time.textContent = new Date(1000 * message.time).toLocaleTimeString([], { timeStyle: "short" });
  const text = document.createElement("span");
  text.textContent = message.text;
  item.append(name, time, text);
  // A message may come a second time when the connection was lost.
  if (!document.querySelector(`li[data-id="${CSS.escape(event.lastEventId)}"]`)) {
    $("messages").append(item);
    item.scrollIntoView({ block: "end" });
  }
}

function connect() {
  if (source) source.close();
  source = new EventSource(`events?${new URLSearchParams({ name: $("name").value })}`);
  source.onopen = () => ($("state").textContent = "connected");
  source.onerror = () => ($("state").textContent = "connecting again");
  source.addEventListener("message", show);
  source.addEventListener("presence", (event) => {
    $("presence").textContent = `Here: ${JSON.parse(event.data).join(", ")}`;
  });
}

$("name").value =
  new URLSearchParams(location.search).get("name") || `guest ${Math.floor(1000 * Math.random())}`;
$("name").addEventListener("change", connect);
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new URLSearchParams({ name: $("name").value, text: $("text").value });
  const response = await fetch("messages", { method: "POST", body });
  if (response.ok) $("text").value = "";
  else $("state").textContent = await response.text();
});
connect();
