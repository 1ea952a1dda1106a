// Numbers and lists as people read them.

export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  // 99.96 % is not certainty.
  if (share < 1 && value >= 99.95) return "> 99.9 %";
  return `${value.toFixed(1)} %`;
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(unit && value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function seconds(value) {
  return `${value.toFixed(2)} s`;
}

export function milliseconds(value) {
  return value >= 1000 ? seconds(value / 1000) : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export function list(names, most) {
  const shown = names.slice(0, most);
  const last = names.length > most ? `${names.length - most} more` : shown.pop();
  return shown.length ? `${shown.join(", ")} and ${last}` : last;
}
