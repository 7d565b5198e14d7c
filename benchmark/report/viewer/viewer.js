"use strict";
(async () => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER, MULTIPLANAR_TYPE } = window.niivue;

  const say = (text) => {
    byId("trouble").textContent = text;
    byId("trouble").hidden = false;
  };
  if (!document.createElement("canvas").getContext("webgl2")) {
    say("This browser shows no 3D graphics (WebGL 2), so the volumes stay hidden. Open the file in a current Firefox, Chrome or Safari.");
    return;
  }

  // Colors of classes: background lets the image through.
  const channel = (color, at) => Number.parseInt(color.slice(1 + 2 * at, 3 + 2 * at), 16);
  const palette = (colors) => ({
    R: colors.map((c) => channel(c, 0)), G: colors.map((c) => channel(c, 1)), B: colors.map((c) => channel(c, 2)),
    A: colors.map((_, id) => (id ? 255 : 0)), I: colors.map((_, id) => id), labels: data.classes,
  });
  const diverging = { R: [109, 20, 255], G: [184, 20, 160], B: [255, 20, 60], A: [255, 255, 255], I: [0, 128, 255] };

  // Before a page is laid out, and in a window that closes, a canvas has hardly a pixel: less than the margins between the
  // planes, which then get a negative width. Its observer draws again as soon as there is room.
  const roomy = (panel, canvas) => {
    const draw = panel.drawScene.bind(panel);
    panel.drawScene = () => (Math.min(canvas.width, canvas.height) < 32 ? undefined : draw());
  };

  const load = (name, settings) =>
    NVImage.loadFromBase64({ base64: data.volumes[name], name: `${name}.nii.gz`, colormap: "gray", ...settings });
  const options = {
    backColor: [0, 0, 0, 1], crosshairColor: [1, 0.9, 0.2, 0.75], crosshairWidth: 0.3, fontColor: [1, 1, 1, 1], isCornerOrientationText: true, show3Dcrosshair: true,
    isRadiologicalConvention: data.radiological, isOrientCube: false, isColorbar: false, isOrientationTextVisible: true,
    multiplanarLayout: MULTIPLANAR_TYPE.GRID, multiplanarShowRender: SHOW_RENDER.ALWAYS, dragMode: 0,
    isNearestInterpolation: true, logLevel: "silent", dragAndDropEnabled: false, loadingText: "",
    clipPlaneHotKey: "", viewModeHotKey: "", textHeight: 0.05, tileMargin: 2,
  };
  const panels = {};
  for (const name of ["clean", "attacked", "difference"]) {
    const solid = name === "difference" ? { multiplanarShowRender: SHOW_RENDER.NEVER } : {}; // in 3D a full block
    panels[name] = new Niivue({ ...options, ...solid });
    panels[name].addColormap("difference", diverging);
    roomy(panels[name], byId(name));
    await panels[name].attachToCanvas(byId(name));
  }
  const [low, high] = data.window;
  const gray = { cal_min: low, cal_max: high, trustCalMinMax: true };
  const images = {
    clean: await load("image", gray),
    attacked: await load("adversarial", gray),
    difference: await load("difference", { colormap: "difference", cal_min: -data.reach, cal_max: data.reach }),
  };
  for (const [panel, image] of Object.entries(images)) panels[panel].addVolume(image);

  // A volume belongs to one canvas, so the reference is loaded for each.
  const overlays = {};
  for (const panel of ["clean", "attacked"]) {
    overlays[panel] = { prediction: await load(panel, {}), reference: await load("reference", {}), errors: await load(panel, {}) };
    const { prediction, reference, errors } = overlays[panel];
    for (let at = 0; at < errors.img.length; at++) errors.img[at] = prediction.img[at] === reference.img[at] ? 0 : 1;
    prediction.setColormapLabel(palette(data.colors));
    reference.setColormapLabel(palette(data.colors));
    errors.setColormapLabel({ ...palette(["#000000", data.wrong]), labels: ["right", "wrong"] });
    for (const overlay of Object.values(overlays[panel])) panels[panel].addVolume(overlay);
  }

  const all = Object.values(panels);
  for (const panel of all) panel.broadcastTo(all.filter((other) => other !== panel), { "2d": true, "3d": true });

  const show = () => {
    const view = byId("view").value;
    const types = { multi: SLICE_TYPE.MULTIPLANAR, axial: SLICE_TYPE.AXIAL, coronal: SLICE_TYPE.CORONAL, sagittal: SLICE_TYPE.SAGITTAL, render: SLICE_TYPE.RENDER };
    for (const panel of all) {
      panel.setRadiologicalConvention(byId("convention").value === "radiological");
      panel.setSliceType(types[view]);
    }
    for (const [panel, shown] of Object.entries(overlays))
      for (const [at, name] of Object.keys(shown).entries())
        panels[panel].setOpacity(at + 1, name === byId("overlay").value ? Number(byId("opacity").value) : 0);
  };

  const format = (value) => Number(value.toPrecision(5)).toString();
  const sides = [["L", "R"], ["P", "A"], ["I", "S"]];
  const tell = (place) => {
    const at = place.vox.map(Math.round);
    const read = (image) => image.getValue(...at);
    const name = (image) => data.classes[read(image)] ?? String(read(image));
    byId("place").textContent = sides
      .map(([less, more], axis) => `${Math.abs(place.mm[axis]).toFixed(1)} mm ${place.mm[axis] < 0 ? less : more}`).join(", ");
    byId("intensity").textContent =
      `clean ${format(read(images.clean))}, attacked ${format(read(images.attacked))}, difference ${format(read(images.difference))} ${data.unit}`;
    byId("class").textContent =
      `reference ${name(overlays.clean.reference)}; predicted ${name(overlays.clean.prediction)} clean, ${name(overlays.attacked.prediction)} attacked`;
  };
  for (const panel of all) panel.onLocationChange = tell;

  // NiiVue takes every touch; where a finger scrolls the page it hears of none, and a tap comes as a click.
  if (navigator.maxTouchPoints) for (const part of document.querySelectorAll(".touch")) part.hidden = false;
  const frames = document.querySelectorAll(".canvas");
  const scrolls = () => byId("finger").value === "scroll";
  const touch = () => frames.forEach((frame) => frame.classList.toggle("held", !scrolls()));
  for (const frame of frames)
    for (const kind of ["touchstart", "touchmove", "touchend"])
      frame.addEventListener(kind, (event) => { if (scrolls()) event.stopPropagation(); }, { capture: true, passive: true });
  byId("finger").addEventListener("input", touch);
  touch();

  for (const id of ["view", "overlay", "opacity", "convention"]) byId(id).addEventListener("input", show);
  byId("view").form.addEventListener("submit", (event) => event.preventDefault());
  show();
  const start = panels.clean.mm2frac(data.start);
  for (const panel of all) {
    panel.scene.crosshairPos = start;
    panel.drawScene();
  }
  panels.clean.createOnLocationChange();
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.textContent = `The volumes could not be shown: ${error.message}`;
  trouble.hidden = false;
});
