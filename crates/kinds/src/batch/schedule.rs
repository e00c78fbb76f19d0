//! Whether a text is a schedule as cron knows it. Reading one for its times belongs to the controller.

/// What is wrong with a schedule, none where nothing is.
pub fn problem(text: &str) -> Option<String> {
    if let Some(word) = text.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let fine = known.contains(&word) || word.strip_prefix("every ").is_some_and(|duration| !duration.trim().is_empty());
        return (!fine).then(|| format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let names_of_months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let names_of_days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(u32, u32, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &names_of_months), (0, 6, &names_of_days)];
    fields.iter().zip(bounds).find_map(|(field, (low, high, names))| field.split(',').find_map(|part| range_problem(part, low, high, names)))
}

fn range_problem(part: &str, low: u32, high: u32, names: &[&str]) -> Option<String> {
    let number = |text: &str| {
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name)).and_then(|position| u32::try_from(position).ok());
        named.map(|position| position + low).or_else(|| text.parse().ok())
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step
        && step.parse::<u32>().ok().is_none_or(|step| step == 0)
    {
        return Some(format!("step of range should be a positive number: {part}"));
    }
    if range == "*" || range == "?" {
        return None;
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Some(first), Some(last)) = (number(first), number(last)) else { return Some(format!("failed to parse int from {range}")) };
    if first < low {
        return Some(format!("beginning of range ({first}) below minimum ({low}): {part}"));
    }
    if last > high {
        return Some(format!("end of range ({last}) above maximum ({high}): {part}"));
    }
    (first > last).then(|| format!("beginning of range ({first}) beyond end of range ({last}): {part}"))
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn schedules_are_told_from_nonsense() {
        for fine in ["* * * * *", "*/5 0-6 1,15 jan mon-fri", "@daily", "@every 1h", "0 0 ? * *"] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for wrong in ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "@never", "5-1 * * * *"] {
            assert!(problem(wrong).is_some(), "{wrong}");
        }
    }
}
