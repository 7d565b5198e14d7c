// What a viewer does in headless Chromium: node viewer.cjs VIEWER.html desktop,phone [FOLDER FOR SCREENSHOTS], JSON on standard output.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const modules = process.env.ROBUSTVOX_NODE_MODULES;
const { chromium } = require(path.join(modules, "playwright-core"));

const VIEWS = {
  desktop: { viewport: { width: 1440, height: 900 }, colorScheme: "light" },
  dark: { viewport: { width: 1440, height: 900 }, colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true },
  "phone dark": { viewport: { width: 390, height: 844 }, colorScheme: "dark", isMobile: true, hasTouch: true },
};
// Graphics of the processor: nobody needs a card to run this.
const ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"];

const [, , file, views, screenshots] = process.argv;
const facts = { console: [], dialogs: [], requests: [], axe: {}, passed: {}, overflow: {}, texts: {}, pictures: {} };

async function open(browser, options) {
  const tab = await browser.newPage(options);
  tab.on("console", (message) => facts.console.push(`${message.type()}: ${message.text()}`));
  tab.on("pageerror", (error) => facts.console.push(`uncaught: ${error.message}`));
  tab.on("dialog", (dialog) => facts.dialogs.push(dialog.message()) && dialog.dismiss());
  tab.on("request", (request) => facts.requests.push(request.url()));
  await tab.goto(pathToFileURL(path.resolve(file)).href, { timeout: 180000 });
  await tab.waitForFunction(() => document.documentElement.dataset.ready || !document.getElementById("trouble").hidden, null, { timeout: 180000 });
  return tab;
}

const picture = async (tab, id) => (await tab.locator(`#${id}`).screenshot()).toString("base64");

async function choose(tab, values) {
  for (const [id, value] of Object.entries(values))
    await tab.$eval(`#${id}`, (field, value) => {
      field.value = value;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }, value);
  await tab.waitForTimeout(100);
}

async function orientation(tab) {
  for (const convention of ["radiological", "neurological"])
    for (const view of ["axial", "coronal"]) {
      await choose(tab, { view, overlay: "reference", opacity: "1", convention });
      facts.pictures[`${convention} ${view}`] = await picture(tab, "clean");
    }
}

async function moving(tab) {
  await choose(tab, { view: "axial", overlay: "prediction", opacity: "1", convention: "radiological" });
  facts.pictures.clean = await picture(tab, "clean");
  facts.pictures.attacked = await picture(tab, "attacked");
  facts.pictures.difference = await picture(tab, "difference");
  const place = () => tab.textContent("#place");
  const before = [await place(), await picture(tab, "attacked")];
  const box = await tab.locator("#clean").boundingBox();
  await tab.mouse.click(box.x + box.width / 2 + 30, box.y + box.height / 2 + 30);
  await tab.waitForTimeout(200);
  const after = [await place(), await picture(tab, "attacked")];
  facts.moved = before.map((value, at) => value !== after[at]);
}

// A finger goes up by 300 pixels on the first panel: how far the page scrolls, and whether the crosshair moves; then a tap.
async function fingers(tab) {
  const session = await tab.context().newCDPSession(tab);
  const place = () => tab.textContent("#place");
  facts.fingers = { offered: await tab.locator("#finger").isVisible() };
  for (const finger of ["scroll", "hold"]) {
    await choose(tab, { finger, view: "axial" });
    await tab.evaluate(() => document.getElementById("clean").scrollIntoView({ block: "center" }));
    const box = await tab.locator("#clean").boundingBox();
    const [x, from, top, before] = [box.x + box.width / 2 + 20, box.y + box.height - 40, await tab.evaluate(() => scrollY), await place()];
    const send = (type, ...points) => session.send("Input.dispatchTouchEvent", { type, touchPoints: points.map((y) => ({ x, y })) });
    await send("touchStart", from);
    for (let moved = 30; moved <= 300; moved += 30) await send("touchMove", from - moved);
    await send("touchEnd");
    await tab.waitForTimeout(500);
    facts.fingers[finger] = { scrolled: (await tab.evaluate(() => scrollY)) - top, moved: (await place()) !== before };
  }
  await choose(tab, { finger: "scroll" });
  const [before, box] = [await place(), await tab.locator("#clean").boundingBox()];
  await tab.touchscreen.tap(box.x + box.width / 2 + 40, box.y + box.height / 2 + 40);
  await tab.waitForTimeout(500);
  facts.fingers.tap = (await place()) !== before;
}

// A window that closes, and one that opens again.
async function narrow(tab) {
  for (const [width, height] of [["2px", "300px"], ["300px", "3px"], ["0px", "0px"], ["", ""]]) {
    await tab.evaluate(([width, height]) => {
      for (const { style } of document.querySelectorAll(".canvas")) Object.assign(style, { width, height });
    }, [width, height]);
    await tab.waitForTimeout(1000);
  }
  const [width, wide] = await tab.evaluate(() => [document.getElementById("clean").width, document.getElementById("clean").clientWidth]);
  facts.drawn_again = width === wide;
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.ROBUSTVOX_CHROMIUM, args: ARGUMENTS });
  const axe = fs.readFileSync(require.resolve(path.join(modules, "axe-core")), "utf8");
  for (const [name, options] of Object.entries(VIEWS).filter(([known]) => views.split(",").includes(known))) {
    const tab = await open(browser, options);
    facts.overflow[name] = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    await tab.evaluate(axe);
    const checked = await tab.evaluate(() => window.axe.run());
    facts.axe[name] = checked.violations.map((found) => `${found.impact}: ${found.id}: ${found.nodes[0].html.slice(0, 120)}`);
    facts.passed[name] = checked.passes.length;
    if (screenshots) await tab.screenshot({ path: path.join(screenshots, `viewer ${name}.png`.replaceAll(" ", "_")), fullPage: true });
    if (name === "desktop") {
      facts.finger_without_touch = await tab.locator("#finger").isVisible();
      for (const id of ["place", "intensity", "class", "trouble"]) facts.texts[id] = await tab.textContent(`#${id}`);
      facts.texts.title = await tab.title();
      facts.texts.legend = await tab.$$eval(".legend li", (items) => items.map((item) => item.textContent.trim()));
      await orientation(tab);
      await moving(tab);
      await narrow(tab);
    }
    if (name === "phone") await fingers(tab);
    await tab.close();
  }
  await browser.close();
  console.log(JSON.stringify(facts));
})();
