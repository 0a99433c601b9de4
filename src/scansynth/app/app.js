// What the buttons of the local page do: ask the server, say what it answers, and look again while something is at work.
"use strict";
(() => {
  const EVERY = 1500; // milliseconds between two looks at what is at work
  const find = (selector) => document.querySelector(selector);

  function say(message) {
    const said = find("#said");
    said.textContent = message;
    said.hidden = !message;
    if (message) said.scrollIntoView({ block: "nearest" });
  }

  async function answered(path, options) {
    const response = await fetch(path, options).catch(() => {
      throw new Error("This page does not reach its program any more. What it has started goes on.");
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error ?? `the server says ${response.status}`);
    return answer;
  }

  async function ask(path, body) {
    const headers = { "Content-Type": "application/json" };
    return answered(path, { method: "POST", headers, body: JSON.stringify(body) });
  }

  /** Do something once: its buttons wait meanwhile, and what goes wrong is said. */
  async function once(form, work) {
    const buttons = form.querySelectorAll("button");
    say("");
    buttons.forEach((button) => (button.disabled = true));
    try {
      const answer = await work();
      if (answer?.go) location.href = answer.go;
    } catch (error) {
      say(error.message);
    } finally {
      buttons.forEach((button) => (button.disabled = false));
    }
  }

  // ---- plan and start

  find("#start")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const targets = [...form.querySelectorAll('input[name="target"]:checked')].map((input) => input.value);
    const plan = event.submitter?.value === "plan";
    once(form, () =>
      ask("/start", { at: form.dataset.at, targets, hours: form.elements.hours.value, output: form.elements.output.value, plan }),
    );
  });

  // ---- files that are dropped

  const dropped = new Map();

  function take(slot, file) {
    dropped.set(slot.dataset.slot, file);
    slot.classList.add("full");
    slot.querySelector("output").textContent = `${file.name}, ${(file.size / 1e6).toFixed(1)} MB`;
  }

  for (const slot of document.querySelectorAll(".slot")) {
    slot.querySelector("input").addEventListener("change", (event) => {
      if (event.target.files.length) take(slot, event.target.files[0]);
    });
    for (const type of ["dragenter", "dragover"]) {
      slot.addEventListener(type, (event) => {
        event.preventDefault();
        slot.classList.add("over");
      });
    }
    slot.addEventListener("dragleave", () => slot.classList.remove("over"));
    slot.addEventListener("drop", (event) => {
      event.preventDefault();
      slot.classList.remove("over");
      if (event.dataTransfer.files.length === 1) take(slot, event.dataTransfer.files[0]);
      else say("drop one file at a time; a DICOM series as one zip archive");
    });
  }
  // A file that misses its place would otherwise open in the page's stead.
  for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());

  find("#make")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const { run, group } = form.dataset;
    once(form, async () => {
      const files = {};
      for (const [slot, file] of dropped) {
        const query = new URLSearchParams({ group, slot, name: file.name });
        files[slot] = (await answered(`/upload?${query}`, { method: "PUT", body: file })).name;
      }
      const samples = Number(form.elements.samples.value);
      return ask("/make", { run, group, files, samples, target: form.querySelector('input[name="target"]:checked')?.value ?? "" });
    });
  });

  // ---- what is at work

  const work = find("#work");

  const state = () => answered(`/work.json?id=${encodeURIComponent(work.dataset.id)}`);

  function look() {
    setTimeout(async () => {
      try {
        show(await state());
        say("");
      } catch (error) {
        say(error.message);
      }
      if (work.dataset.state === "running") look();
    }, EVERY);
  }

  function show(answer) {
    if (answer.html !== work.dataset.shown) {
      const focused = work.contains(document.activeElement) ? document.activeElement.dataset.do : null;
      const log = work.querySelector(".log");
      const place = log && log.scrollTop + log.clientHeight < log.scrollHeight - 4 ? log.scrollTop : null;
      work.innerHTML = answer.html;
      work.dataset.shown = answer.html;
      if (focused) work.querySelector(`[data-do="${focused}"]`)?.focus();
      const newLog = work.querySelector(".log");
      if (newLog) newLog.scrollTop = place ?? newLog.scrollHeight;
    }
    if (answer.state !== work.dataset.state) find("#spoken").textContent = `It is ${answer.state}.`;
    work.dataset.state = answer.state;
  }

  work?.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    once(work, async () => {
      const answer = await ask(`/${button.dataset.do}`, { id: work.dataset.id });
      const here = new URL(answer.go, location.href).searchParams.get("id") === work.dataset.id;
      if (!here) return answer;
      const running = work.dataset.state === "running";
      show(await state());
      if (!running && work.dataset.state === "running") look();
    });
  });
  if (work?.dataset.state === "running") look();
})();
