// Draw the asked icons of each style as 128 x 128 RGBA PNGs, trimmed to their visible part: the longer side is 120 pixels.
// data.py copies this file beside node_modules and runs:  node rasterise.mjs ICONS.json OUT
// ICONS.json is a list of icon names; OUT gets STYLE/ICON.png and index.json.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import sharp from "sharp";

const SIDE = 128, ART = 120, DRAWN = 512;
const CLEAR = { r: 0, g: 0, b: 0, alpha: 0 };
// Style words of the captions, the package that has the art, and its licence.
const VECTORS = [
  ["glossy icon", "@iconify-json/fluent-emoji", "MIT"],
  ["flat icon", "@iconify-json/fluent-emoji-flat", "MIT"],
  ["cartoon emoji", "@iconify-json/noto", "Apache-2.0"],
  ["simple emoji", "@iconify-json/twemoji", "CC-BY-4.0"],
];
const RENDER = ["3d render", "@lobehub/fluent-emoji-3d", "MIT"];

const read = (name, file) => JSON.parse(readFileSync(`node_modules/${name}/${file}`, "utf8"));

function svg(set, icon) {
  let at = set.icons[icon];
  if (!at && set.aliases?.[icon]) at = set.icons[set.aliases[icon].parent];
  if (!at) return null;
  const width = at.width ?? set.width, height = at.height ?? set.height;
  const box = `${at.left ?? 0} ${at.top ?? 0} ${width} ${height}`;
  return Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ` +
    `width="${DRAWN}" height="${DRAWN}" viewBox="${box}">${at.body}</svg>`);
}

async function draw(source, path) {
  const whole = await sharp(source).resize(DRAWN, DRAWN, { fit: "contain", background: CLEAR }).png().toBuffer();
  const art = await sharp(whole).trim({ background: CLEAR, threshold: 4 })
    .resize(ART, ART, { fit: "inside" }).png().toBuffer({ resolveWithObject: true });
  const left = Math.floor((SIDE - art.info.width) / 2), top = Math.floor((SIDE - art.info.height) / 2);
  await sharp(art.data).extend({
    left, top, right: SIDE - art.info.width - left, bottom: SIDE - art.info.height - top, background: CLEAR,
  }).ensureAlpha().png().toFile(path);
}

const [list, out] = process.argv.slice(2);
const icons = JSON.parse(readFileSync(list, "utf8"));
const bare = (codes) => codes.split("-").filter((code) => code !== "fe0f").join("-");
const noto = "@iconify-json/noto";
const codes = {};  // icon name -> code points: only this package tells them, and the 3D art is named by them
for (const [code, icon] of Object.entries(read(noto, "chars.json"))) codes[icon] ??= bare(code);
const categories = {};
for (const [category, names] of Object.entries(read(noto, "metadata.json").categories))
  for (const icon of names) categories[icon] ??= category;
const renders = {};
const { readdirSync } = await import("node:fs");
for (const file of readdirSync(`node_modules/${RENDER[1]}/assets`)) renders[bare(file.replace(".webp", ""))] = file;

const index = [], missing = [];
for (const [style, name, licence] of [RENDER, ...VECTORS]) {
  const set = style === RENDER[0] ? null : read(name, "icons.json");
  const version = read(name, "package.json").version;
  mkdirSync(`${out}/${style}`, { recursive: true });
  for (const icon of icons) {
    const file = renders[codes[icon]];
    const source = set ? svg(set, icon) : file && `node_modules/${name}/assets/${file}`;
    if (!source) { missing.push(`${icon} in ${name}`); continue; }
    const path = `${style}/${icon}.png`;
    await draw(source, `${out}/${path}`);
    index.push({ icon, style, category: categories[icon], licence, source: `${name}@${version}`, file: path });
  }
}
if (missing.length) {
  console.error(`The packages lack ${missing.join(", ")}`);
  process.exit(1);
}
writeFileSync(`${out}/index.json`, JSON.stringify(index, null, 1));
