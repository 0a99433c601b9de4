// What stands below and beside the pictures: colour bars, and the intensities at the crosshair.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);

  class Readout {
    constructor(colours, scale) {
      this.colours = colours;
      this.scale = scale; // what intensities are
      this.turn = 0;
    }

    /** A bar for each colour map that the case has a use for. */
    bars(shown) {
      const [spread] = shown.of("uncertainty");
      const note = document.createElement("span");
      note.textContent = `One scale for all runs; intensities are ${this.scale}.`;
      const bars = shown.of("error").length ? [this.bar("error", shown.error_white, "Error |synthesis − truth|")] : [];
      if (spread) bars.push(this.bar("uncertainty", spread.white, "Uncertainty, standard deviation of samples"));
      find("bars").replaceChildren(...bars, ...(bars.length ? [note] : []));
    }

    bar(kind, white, text) {
      const box = document.createElement("span");
      box.className = "bar";
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [256, 1];
      const context = canvas.getContext("2d");
      const shades = context.createLinearGradient(0, 0, 256, 0);
      const colours = this.colours[kind];
      colours.forEach((rgb, i) => shades.addColorStop(i / (colours.length - 1), `rgb(${rgb})`));
      context.fillStyle = shades;
      context.fillRect(0, 0, 256, 1);
      box.append(`${text}  0`, canvas, `≥ ${white.toPrecision(2)}`);
      return box;
    }

    /** Intensity, error and uncertainty of every image at a voxel [x, y, z]. */
    async values(shown, voxel) {
      const mine = ++this.turn;
      const columns = shown.of("uncertainty").length ? ["error", "uncertainty"] : ["error"];
      const text = async (image) => (image ? (shown.voxelAt(await image.file(), voxel) * image.step).toFixed(3) : "");
      const rows = [];
      for (const image of shown.images.filter((image) => image.grey)) {
        const own = columns.map((kind) => (image.kind === "synthesis" ? shown.of(kind, image.name)[0] : undefined));
        rows.push([image.label, ...(await Promise.all([image, ...own].map(text)))]);
      }
      if (mine !== this.turn) return;
      find("values-spread").hidden = columns.length < 2;
      find("values").tBodies[0].replaceChildren(...rows.map(lineOf));
      const sides = shown.spacing.map((mm) => Number(mm.toPrecision(3))).join(" × ");
      const place = voxel.map((i) => i + 1).join(", ");
      find("place").textContent = `Voxel ${place} of ${shown.shape.join(" × ")}, counted from left, posterior and inferior; ${sides} mm.`;
    }
  }

  function lineOf([name, ...figures]) {
    const line = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    line.append(head);
    for (const figure of figures) {
      const cell = line.insertCell();
      cell.className = "figure";
      cell.textContent = figure;
    }
    return line;
  }

  scansynthReport.Readout = Readout;
})();
