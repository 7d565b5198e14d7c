// What a report on paper would clip, and how it stands on screens: node print.cjs REPORT.html REPORT.pdf, JSON on standard output.
const path = require("node:path");
const { chromium } = require(path.join(process.env.ROBUSTVOX_NODE_MODULES, "playwright-core"));

const WIDTH = 1032; // A4 landscape less margins of 12 mm, in CSS pixels
const WIDER = "th, td, img, pre, li, dd, dt, p, h1, h2, h3, summary, figcaption";

function clipped([width, wider]) {
  return [...document.querySelectorAll(wider)]
    .filter((cell) => cell.getBoundingClientRect().right > width + 0.5 || cell.scrollWidth > cell.clientWidth + 1)
    .map((cell) => `${cell.tagName} ${cell.textContent.slice(0, 40)}`);
}

function scrolling() {
  return [...document.querySelectorAll("body *")]
    .filter((box) => getComputedStyle(box).overflowX === "auto" && box.scrollWidth > box.clientWidth + 1)
    .map((box) => [box.getAttribute("aria-label") || box.tagName, box.tabIndex]);
}

function pictures() {
  const shown = (name) => document.querySelector(`img.${name}`).getBoundingClientRect().height > 0;
  return { light: shown("light"), dark: shown("dark") };
}

(async () => {
  const [report, pdf] = process.argv.slice(2);
  const browser = await chromium.launch({ executablePath: process.env.ROBUSTVOX_CHROMIUM, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 703 }, colorScheme: "dark" });
  const told = [], requests = [];
  page.on("console", (message) => told.push(message.text()));
  page.on("request", (request) => /^(file|data):/.test(request.url()) || requests.push(request.url()));
  await page.goto(`file://${path.resolve(report)}`);
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  const print = {
    cells: await page.locator("td").count(),
    clipped: await page.evaluate(clipped, [WIDTH, WIDER]),
    background: await page.evaluate(() => getComputedStyle(document.body).backgroundColor),
    folded: await page.evaluate(() =>
      [...document.querySelectorAll("details td, details dd")].map((cell) => cell.getBoundingClientRect().height)),
    pictures: await page.evaluate(pictures),
  };
  await page.pdf({ path: pdf, preferCSSPageSize: true, printBackground: true });
  const widths = {}, boxes = {}, shown = {};
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ media: "screen", colorScheme });
    shown[colorScheme] = await page.evaluate(pictures);
  }
  for (const width of [1440, 390]) {
    await page.setViewportSize({ width, height: 900 });
    widths[width] = await page.evaluate(() => document.documentElement.scrollWidth);
    boxes[width] = await page.evaluate(scrolling);
  }
  await browser.close();
  const unreachable = Object.values(boxes).flat().filter(([, order]) => order < 0);
  console.log(JSON.stringify({ console: told, requests, print, widths, scrolling: boxes, unreachable, pictures: shown }));
})();
