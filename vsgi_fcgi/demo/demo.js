// Send the forms of the page, and show the result in each form.
"use strict";

const RANDOM_BYTES = 5_000_000;
const MAX_DIGESTED = 64 * 2 ** 20; // largest upload of which the browser computes the digest

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
const seconds = (milliseconds) =>
  milliseconds < 100 ? `${milliseconds.toFixed(1)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;

/** Return a new element that contains texts and other elements. */
function make(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}

/** Form with its button, its state and its result. */
class Card {
  constructor(id, run) {
    this.form = document.getElementById(id);
    this.button = this.form.querySelector("button");
    this.live = this.form.querySelector(".live");
    this.result = this.form.querySelector(".result");
    this.label = this.button.textContent;
    this.stop = null;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stop) this.stop();
      else run(this);
    });
  }

  /** Start a request. Until its end, the button stops it, and required fields may be empty. */
  begin(stop) {
    this.stop = () => {
      stop();
      this.end("Stopped.");
    };
    this.began = performance.now();
    this.form.noValidate = true;
    this.button.textContent = "Stop";
    this.button.classList.add("stops");
    this.result.className = "result";
    this.result.replaceChildren();
  }

  /** Show the result, whose lines are texts or elements. */
  end(...lines) {
    this.stop = null;
    this.form.noValidate = false;
    this.button.textContent = this.label;
    this.button.classList.remove("stops");
    if (this.live) this.live.textContent = "";
    this.result.replaceChildren(...lines.map((line) => make("div", line)));
  }

  fail(...lines) {
    this.end(...lines);
    this.result.classList.add("failed");
  }

  get elapsed() {
    return performance.now() - this.began;
  }
}

/** Return the SHA-256 digest of a blob, or null if the browser cannot compute it. */
async function digest(blob) {
  if (!crypto.subtle || blob.size > MAX_DIGESTED) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// This uses XMLHttpRequest, because fetch() does not report the progress of an upload.
function upload(card, blob) {
  const request = new XMLHttpRequest();
  const progress = card.form.querySelector("progress");
  const expected = digest(blob).catch(() => null);
  let sent = 0;
  card.begin(() => request.abort());
  progress.value = 0;
  progress.hidden = false;
  request.upload.onprogress = (event) => {
    progress.value = event.total ? event.loaded / event.total : 1;
  };
  request.upload.onload = () => {
    sent = card.elapsed;
    progress.value = 1;
  };
  request.onloadend = () => {
    progress.hidden = true;
  };
  request.onerror = () => card.fail("The connection was lost.");
  request.onload = async () => {
    const took = card.elapsed;
    if (request.status !== 200) {
      card.fail(`${request.status} ${request.statusText}`);
      return;
    }
    const found = JSON.parse(request.responseText);
    const lines = [
      make("strong", `${number.format(found.bytes)} bytes`),
      `in ${seconds(took)}: sent in ${seconds(sent)}, read by the app in ${seconds(found.seconds * 1000)}`,
      make("span", "SHA-256 ", make("code", found.sha256)),
    ];
    const own = await expected;
    if (own === found.sha256) card.end(...lines, "The browser computed the same digest.");
    else if (own) card.fail(...lines, `The browser computed another digest: ${own}`);
    else card.end(...lines);
  };
  request.open("POST", card.form.action);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(blob);
}

async function slow(card) {
  const control = new AbortController();
  const url = `${card.form.action}?${new URLSearchParams(new FormData(card.form))}`;
  card.begin(() => control.abort());
  const clock = setInterval(() => {
    card.live.textContent = `${(card.elapsed / 1000).toFixed(1)} s`;
  }, 100);
  try {
    const answer = await fetch(url, { cache: "no-store", signal: control.signal });
    const text = await answer.text();
    const took = seconds(card.elapsed);
    if (answer.ok) {
      const waited = seconds(JSON.parse(text).seconds * 1000);
      card.end(make("strong", `Response after ${took}`), `The app waited ${waited}.`);
    } else {
      card.fail(`${answer.status} ${answer.statusText}`, text);
    }
  } catch (error) {
    if (error.name !== "AbortError") card.fail(`The connection was lost: ${error.message}`);
  } finally {
    clearInterval(clock);
  }
}

function events(card) {
  const url = `${card.form.action}?${new URLSearchParams(new FormData(card.form))}`;
  const dots = card.form.querySelector(".ticks");
  const source = new EventSource(url);
  const times = [];
  card.begin(() => source.close());
  card.live.textContent = "waiting";
  dots.replaceChildren();
  source.addEventListener("tick", (event) => {
    const { tick, ticks } = JSON.parse(event.data);
    times.push(performance.now());
    while (dots.children.length < ticks) dots.append(make("li"));
    dots.children[tick - 1].className = "here";
    card.live.textContent = `${tick} of ${ticks}`;
  });
  source.addEventListener("end", () => {
    source.close();
    const spread = times.at(-1) - times[0];
    const gaps = times.length - 1;
    const count = make("strong", `${times.length} ${gaps ? "ticks" : "tick"} in ${seconds(card.elapsed)}`);
    if (!gaps) card.end(count);
    else if (spread > gaps * 500) card.end(count, `${seconds(spread / gaps)} apart, without buffering.`);
    else card.fail(count, "The events arrived together: a server on the way buffers responses.");
  });
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) card.fail("The stream was refused.");
    else card.live.textContent = "connection lost, the browser reconnects";
  };
}

async function error(card) {
  const control = new AbortController();
  card.begin(() => control.abort());
  try {
    const answer = await fetch(card.form.action, { cache: "no-store", signal: control.signal });
    const text = await answer.text();
    card.end(make("strong", `${answer.status} ${answer.statusText}`), make("pre", text.slice(0, 2000).trim()));
  } catch (failure) {
    if (failure.name !== "AbortError") card.fail(`The connection was lost: ${failure.message}`);
  }
}

const MAX_HEARD = 5; // texts that are shown

/** Send a text to all pages. What the others send is shown, too. */
function talk(card) {
  const source = new EventSource(card.form.action);
  source.addEventListener("talk", (event) => {
    card.result.append(make("div", JSON.parse(event.data)));
    while (card.result.children.length > MAX_HEARD) card.result.firstChild.remove();
  });
  card.form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new URLSearchParams(new FormData(card.form));
    const answer = await fetch(card.form.action, { method: "POST", body }).catch(() => null);
    if (answer?.ok) card.form.reset();
    else card.result.replaceChildren(make("div", "The text was not sent."));
  });
}

const uploads = new Card("upload", (card) => upload(card, card.form.elements.file.files[0]));
new Card("slow", slow);
new Card("events", events);
new Card("error", error);
const talking = document.getElementById("talk");
if (talking) talk({ form: talking, result: talking.querySelector(".result") });

const random = uploads.form.querySelector("[data-random]");
random.hidden = false;
random.addEventListener("click", () => {
  if (uploads.stop) return;
  const bytes = new Uint8Array(RANDOM_BYTES);
  // getRandomValues() returns at most 64 KiB.
  for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  upload(uploads, new Blob([bytes]));
});
