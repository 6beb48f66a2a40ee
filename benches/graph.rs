//! Graphs of the server time of operations against a size, as SVG.

use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

/// A graph.
pub struct Graph<'a> {
    /// Its title.
    pub title: &'a str,
    /// What the sizes count.
    pub axis: &'a str,
    /// The sizes, which are drawn at equal distances.
    pub sizes: &'a [String],
    /// The name of each line, and its value at each size where it has one, in microseconds.
    pub lines: &'a [(&'static str, Vec<Option<f64>>)],
}

const FONT: &str = "sans-serif";

/// Colors that people with a color vision deficiency can tell apart, too.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(160, 130, 0),
    RGBColor(70, 70, 70),
];

impl Graph<'_> {
    /// Writes the graph.
    pub fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let values = || self.lines.iter().flat_map(|(_, values)| values.iter().flatten());
        // The names of the lines need some room above them.
        let room = 1.1 + 0.06 * self.lines.len() as f64;
        let most = values().copied().fold(0.0, f64::max) * room;
        let root = SVGBackend::new(path, (800, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let last = (self.sizes.len() - 1) as f64;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, (FONT, 18))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(60)
            .build_cartesian_2d(-0.2..last + 0.2, 0.0..most)?;
        let size = |place: &f64| match place.fract().abs() < 1e-6 {
            true => self.sizes.get(*place as usize).cloned().unwrap_or_default(),
            false => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(self.sizes.len() * 2)
            .x_label_formatter(&size)
            .x_desc(self.axis)
            .y_desc("server time, microseconds")
            .label_style((FONT, 13))
            .draw()?;
        for ((label, values), color) in self.lines.iter().zip(COLORS.iter().cycle()) {
            let points: Vec<_> = values
                .iter()
                .enumerate()
                .filter_map(|(place, value)| Some((place as f64, (*value)?)))
                .collect();
            let style = color.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
                .label(*label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font((FONT, 13))
            .background_style(WHITE.mix(0.8))
            .draw()?;
        root.present()?;
        Ok(())
    }
}
