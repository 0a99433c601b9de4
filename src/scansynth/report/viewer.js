// The viewer: what is chosen, where the crosshair is, and everything that follows from it.
"use strict";
(async () => {
  const { CLASSES, NAMES, PLANES, Case, CompareView, Panel, Readout, hasWebGL } = scansynthReport;
  const find = (id) => document.getElementById(id);
  const report = JSON.parse(find("report-data").textContent);
  const root = find("viewer-root");
  const compareView = new CompareView(find("compare"), report.banner);
  const readout = new Readout(report.colours, report.scale);
  const choices = [1, 2, 3].map((number) => find(`choice-${number}`));
  const chosenOf = (name) => root.querySelector(`input[name="${name}"]:checked`).value;
  let panels = [];
  let current = null; // the case
  let voxel = [0, 0, 0];
  let limits = [0, 1]; // black and white of truth and syntheses
  let chosen = 1; // the picture that keys act on
  let turn = 0;

  const imageOf = (select) => current.images[Number(select.value)];
  const plane = () => (PLANES[chosenOf("plane")] ? chosenOf("plane") : "axial");

  /** Black and white of an image: sources follow the window of the truth in proportion to their own white. */
  function limitsOf(image) {
    if (!image.grey) return [0, image.white];
    const share = image.white / current.reference.white;
    return [limits[0] * share, limits[1] * share];
  }

  function notify(text) {
    find("notice").textContent = text;
    find("notice").hidden = !text;
  }

  // ---- what is chosen

  function fillSelect(select, images, value) {
    select.replaceChildren();
    for (const kind of CLASSES) {
      const group = document.createElement("optgroup");
      group.label = NAMES[kind];
      for (const image of images.filter((image) => image.kind === kind)) group.append(new Option(image.label, image.key));
      if (group.children.length) select.append(group);
    }
    select.value = value.key;
  }

  async function openCase(place) {
    const mine = ++turn;
    const before = current && [...choices, find("compare-a"), find("compare-b")].map((select) => imageOf(select));
    current = new Case(report.cases[place]);
    panels.forEach((panel) => panel.forget());
    // What was chosen stays chosen, where the new subject has it too.
    const first = (kind, position) => {
      const old = before?.[position];
      const same = old && (current.of(old.kind, old.name)[0] ?? current.of(old.kind)[0]);
      return same ?? current.of(kind)[0] ?? current.of(position < choices.length ? "uncertainty" : "source")[0] ?? current.of("source")[0];
    };
    ["source", "synthesis", "truth"].forEach((kind, i) => fillSelect(choices[i], current.images, first(kind, i)));
    const grey = current.images.filter((image) => image.grey);
    fillSelect(find("compare-a"), grey, first("synthesis", 3));
    fillSelect(find("compare-b"), grey, first("truth", 4));
    const why = { error: "There is no truth to take it from", uncertainty: "One sample was drawn: there is no uncertainty" };
    for (const [kind, reason] of Object.entries(why)) {
      const radio = root.querySelector(`input[name="overlay"][value="${kind}"]`);
      radio.disabled = !current.of(kind).length;
      radio.parentElement.title = radio.disabled ? reason : "";
      if (radio.disabled && radio.checked) root.querySelector('input[name="overlay"][value="none"]').checked = true;
    }
    voxel = current.shape.map((side) => Math.floor(side / 2));
    const most = Number(current.top.toPrecision(3));
    for (const id of ["window", "window-number", "level", "level-number"]) {
      Object.assign(find(id), { min: id.startsWith("window") ? most / 100 : 0, max: most, step: most / 100 });
    }
    readout.bars(current);
    setLimits(0, current.reference.white);
    await showAll();
    if (mine === turn) moved();
  }

  function layersOf(image) {
    const layers = [{ image, limits: limitsOf(image), colours: image.grey ? "gray" : image.kind, opacity: 1 }];
    const kind = chosenOf("overlay");
    if (kind !== "none" && image.kind === "synthesis") {
      const over = current.of(kind, image.name)[0];
      const opacity = Number(find("opacity").value);
      if (over) layers.push({ image: over, limits: limitsOf(over), colours: `${kind} over`, opacity });
    }
    return layers;
  }

  async function showPanel(place) {
    const [panel, image] = [panels[place], imageOf(choices[place])];
    const { parentElement, id } = find(`picture-${place + 1}`);
    const stamp = parentElement.querySelector(".stamp");
    stamp.hidden = ["source", "truth"].includes(image.kind);
    const missing = chosenOf("overlay") === "uncertainty" && image.kind === "synthesis" && !current.of("uncertainty", image.name).length;
    stamp.textContent = report.banner + (missing ? " (one sample: no uncertainty)" : "");
    const name = `Picture ${place + 1}, ${image.label}. Arrow keys move the crosshair, page keys change the slice.`;
    find(id).setAttribute("aria-label", name);
    if (!panel) return;
    if (await panel.show(layersOf(image))) {
      panel.options({ plane: chosenOf("plane"), smooth: find("smooth").checked, crosshair: find("crosshair").checked });
      panel.place(voxel);
    }
  }

  const showAll = () => Promise.all(choices.map((_, place) => showPanel(place)));

  // ---- window and level

  function setLimits(low, high) {
    limits = [low, high];
    const digits = (value) => Number(value.toPrecision(3));
    find("window").value = find("window-number").value = digits(high - low);
    find("level").value = find("level-number").value = digits((low + high) / 2);
  }

  function setWindow(width, level) {
    const least = current.top / 100;
    const wide = Math.min(current.top, Math.max(least, width));
    const middle = Math.min(current.top, Math.max(0, level));
    setLimits(middle - wide / 2, middle + wide / 2);
    soon(showAll);
    soon(drawCompare);
  }

  function resetWindow() {
    setWindow(current.reference.white, current.reference.white / 2);
  }

  const showValues = () => readout.values(current, [...voxel]);

  let pending = 0;
  /** Tell assistive technology that the pictures are not up to date while work is done. */
  async function during(work) {
    pending += 1;
    root.setAttribute("aria-busy", "true");
    try {
      return await work();
    } finally {
      pending -= 1;
      if (!pending) root.setAttribute("aria-busy", "false");
    }
  }

  const waiting = new Set();
  /** Once before the next frame, however often it is asked for. */
  function soon(work) {
    if (waiting.has(work)) return;
    waiting.add(work);
    during(async () => {
      await new Promise(requestAnimationFrame);
      waiting.delete(work);
      await work();
    });
  }

  // ---- where the crosshair is

  function moveTo(place) {
    voxel = place.map((value, i) => Math.min(current.shape[i] - 1, Math.max(0, Math.round(value))));
    panels.forEach((panel) => panel.place(voxel));
    moved();
  }

  function moveSlice(by) {
    const { axis } = PLANES[plane()];
    moveTo(voxel.map((value, i) => (i === axis ? value + by : value)));
  }

  function moved() {
    const { axis } = PLANES[plane()];
    const slice = find("slice");
    slice.max = current.shape[axis];
    slice.value = voxel[axis] + 1;
    find("slice-text").value = `${voxel[axis] + 1} of ${current.shape[axis]}`;
    slice.setAttribute("aria-valuetext", `${plane()} slice ${voxel[axis] + 1} of ${current.shape[axis]}`);
    soon(drawCompare);
    soon(showValues);
  }

  async function drawCompare() {
    if (!current) return;
    const [here, shown, at] = [current, plane(), [...voxel]];
    const side = async (select) => {
      const image = imageOf(select);
      const slice = here.slice(await image.file(), shown, at[PLANES[shown].axis]);
      return { slice, step: image.step, limits: limitsOf(image), label: image.label };
    };
    const [a, b] = [await side(find("compare-a")), await side(find("compare-b"))];
    if (here !== current) return;
    const mode = chosenOf("mode");
    find("share-label").hidden = mode !== "slider";
    find("tile-label").hidden = mode === "slider";
    const text = `${mode === "slider" ? "Slider between" : "Checkerboard of"} ${a.label} and ${b.label}, ${shown} slice ${at[PLANES[shown].axis] + 1}. ${report.banner}`;
    find("compare").setAttribute("aria-label", text);
    compareView.draw({
      grid: here, plane: shown, voxel: at, a, b, mode,
      share: Number(find("share").value) / 100, tile: Number(find("tile").value),
      smooth: find("smooth").checked, crosshair: find("crosshair").checked,
    });
  }

  // ---- controls

  function choosePanel(place) {
    chosen = place;
    root.querySelectorAll(".panel").forEach((panel, i) => panel.classList.toggle("chosen", i === place));
  }

  /** Put the next image of a kind into the chosen picture. */
  function chooseKind(kind) {
    const images = current.of(kind);
    if (!images.length) {
      find("spoken").textContent = `There is no ${kind}.`;
      return;
    }
    const select = choices[chosen];
    const next = images[(images.indexOf(imageOf(select)) + 1) % images.length];
    // From a synthesis to its own error, and back.
    const same = current.of(kind, imageOf(select).name)[0];
    select.value = (imageOf(select).kind !== kind && same ? same : next).key;
    find("spoken").textContent = `Picture ${chosen + 1}: ${imageOf(select).label}`;
    during(() => showPanel(chosen));
  }

  function check(name, value) {
    const input = root.querySelector(`input[name="${name}"][value="${value}"]`);
    if (input.disabled) return;
    input.checked = true;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  const overlay = (kind) => check("overlay", chosenOf("overlay") === kind ? "none" : kind);

  const KEYS = {
    PageUp: () => moveSlice(1),
    PageDown: () => moveSlice(-1),
    a: () => check("plane", "axial"),
    c: () => check("plane", "coronal"),
    s: () => check("plane", "sagittal"),
    m: () => check("plane", "all"),
    d: () => check("plane", "render"),
    e: () => overlay("error"),
    u: () => overlay("uncertainty"),
    r: resetWindow,
  };
  CLASSES.forEach((kind, i) => (KEYS[String(i + 1)] = () => chooseKind(kind)));
  // As planes are seen: to the right on screen is towards the low end of the axis.
  const ARROWS = { ArrowLeft: ["across", 1], ArrowRight: ["across", -1], ArrowUp: ["down", 1], ArrowDown: ["down", -1] };

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const onPicture = event.target.tagName === "CANVAS";
    // NiiVue's own keys are others, and unknown to the page's help.
    if (onPicture && event.key !== "Tab") event.stopPropagation();
    if (event.type !== "keydown" || event.target.matches("select, input[type=number]")) return;
    if (onPicture && ARROWS[event.key]) {
      const [direction, by] = ARROWS[event.key];
      if (chosenOf("plane") === "render") {
        const step = 5 * by;
        panels.forEach((panel) => (direction === "across" ? panel.turnBy(-step, 0) : panel.turnBy(0, step)));
      } else {
        const moving = PLANES[plane()][direction];
        moveTo(voxel.map((value, i) => (i === moving ? value + by : value)));
      }
    } else if (KEYS[event.key] && !(event.target.type === "range" && event.key.startsWith("Page"))) {
      KEYS[event.key]();
    } else {
      return;
    }
    event.preventDefault();
  }

  function connect() {
    root.addEventListener("keydown", onKey, true);
    root.addEventListener("keyup", onKey, true);
    choices.forEach((select, place) => {
      select.addEventListener("change", () => during(() => showPanel(place)));
      connectPicture(place);
    });
    find("case").addEventListener("change", (event) => during(() => openCase(Number(event.target.value))));
    for (const id of ["compare-a", "compare-b", "share", "tile"]) find(id).addEventListener("input", () => soon(drawCompare));
    root.querySelectorAll('input[name="mode"]').forEach((input) => input.addEventListener("change", () => soon(drawCompare)));
    const redraw = () => {
      soon(showAll);
      moved();
    };
    for (const input of [find("smooth"), find("crosshair"), ...root.querySelectorAll('input[name="plane"], input[name="overlay"]')]) {
      input.addEventListener("change", redraw);
    }
    find("opacity").addEventListener("input", () => soon(showAll));
    find("slice").addEventListener("input", (event) => moveSlice(Number(event.target.value) - 1 - voxel[PLANES[plane()].axis]));
    find("zoom").addEventListener("input", (event) => panels.forEach((panel) => panel.zoomTo(Number(event.target.value))));
    for (const suffix of ["", "-number"]) {
      const set = () => setWindow(Number(find(`window${suffix}`).value), Number(find(`level${suffix}`).value));
      for (const id of ["window", "level"]) find(id + suffix).addEventListener(suffix ? "change" : "input", set);
    }
    find("reset").addEventListener("click", resetWindow);
    const compare = find("compare");
    const drag = (event) => {
      if (!event.buttons) return;
      const [x, y] = compareView.shareAt(event);
      if (chosenOf("mode") === "slider") {
        find("share").value = 100 * x;
        soon(drawCompare);
      } else {
        const { across, down } = PLANES[plane()];
        const at = [...voxel];
        at[across] = (1 - x) * current.shape[across] - 0.5;
        at[down] = (1 - y) * current.shape[down] - 0.5;
        moveTo(at);
      }
    };
    compare.addEventListener("pointerdown", (event) => {
      compare.setPointerCapture(event.pointerId);
      drag(event);
    });
    compare.addEventListener("pointermove", drag);
    new ResizeObserver(() => soon(drawCompare)).observe(compare);
  }

  /** Choose a picture with the pointer or the focus; mouse on it: window with the right button, slices with the wheel. */
  function connectPicture(place) {
    const panel = choices[place].closest(".panel");
    const canvas = panel.querySelector("canvas");
    let from = null;
    panel.addEventListener("focusin", () => choosePanel(place));
    panel.addEventListener("pointerdown", () => choosePanel(place));
    // Caught on the way down, before NiiVue, whose right button and double click set the window of one picture only.
    const stage = canvas.parentElement;
    const catchOn = (type, act) => stage.addEventListener(type, act, { capture: true, passive: false });
    catchOn("mousedown", (event) => {
      if (event.button !== 2) return;
      event.stopPropagation();
      from = { x: event.clientX, y: event.clientY, width: limits[1] - limits[0], level: (limits[0] + limits[1]) / 2 };
    });
    addEventListener("mousemove", (event) => {
      if (!from) return;
      const unit = current.top / 300; // of intensity, a pixel
      setWindow(from.width + (event.clientX - from.x) * unit, from.level - (event.clientY - from.y) * unit);
    });
    addEventListener("mouseup", () => (from = null));
    catchOn("dblclick", (event) => {
      event.stopPropagation();
      resetWindow();
    });
    catchOn("wheel", (event) => {
      // A page that stops scrolling when a picture passes under the pointer is a trap: only the chosen one takes it.
      if (document.activeElement !== canvas) return event.stopPropagation();
      if (chosenOf("plane") === "render") return undefined;
      event.stopPropagation();
      event.preventDefault();
      return moveSlice(event.deltaY < 0 ? 1 : -1);
    });
    stage.addEventListener("mousemove", (event) => event.buttons && panels[place] && soon(follow[place]));
  }

  const follow = choices.map((_, place) => () => {
    panels.forEach((panel, other) => other !== place && panel.follow(panels[place]));
  });

  async function openPanels() {
    if (!hasWebGL()) throw new Error("this browser has no WebGL2");
    const opened = [];
    for (const [place] of choices.entries()) {
      const canvas = find(`picture-${place + 1}`);
      const panel = await Panel.open(canvas, report.colours);
      canvas.setAttribute("role", "application");
      canvas.addEventListener("webglcontextlost", () => notify("The browser took the graphics memory away: reload the page."));
      panel.nv.onLocationChange = () => {
        voxel = panel.voxel.map((value, i) => Math.min(current.shape[i] - 1, Math.max(0, value)));
        panels.forEach((other) => other !== panel && other.place(voxel));
        moved();
      };
      opened.push(panel);
    }
    return opened;
  }

  report.cases.forEach((one, place) => find("case").append(new Option(`${one.subject}, ${one.target}`, place)));
  connect();
  choosePanel(1);
  try {
    panels = await openPanels();
  } catch (error) {
    find("panels").hidden = true;
    notify(`The pictures of the viewer cannot be drawn (${error.message}). The comparison below and the montages do without; a browser with WebGL2 shows all.`);
  }
  try {
    await during(() => openCase(0));
  } catch (error) {
    notify(`The volumes cannot be read (${error.message}): a newer browser is needed.`);
  }
})();
