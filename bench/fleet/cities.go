package fleet

// city is where clients are and nodes may stand: degrees, millions of people.
type city struct {
	name                string
	latitude, longitude float64
	people              float64
}

// cities of the world with their metropolitan populations, rounded.
func cities() []city {
	return []city{
		{"Tokyo", 35.68, 139.69, 37}, {"Delhi", 28.61, 77.21, 32}, {"Shanghai", 31.23, 121.47, 29}, {"Sao Paulo", -23.55, -46.63, 22},
		{"Mexico City", 19.43, -99.13, 22}, {"Cairo", 30.04, 31.24, 22}, {"Mumbai", 19.08, 72.88, 21}, {"Beijing", 39.90, 116.41, 21},
		{"Dhaka", 23.81, 90.41, 23}, {"Osaka", 34.69, 135.50, 19}, {"New York", 40.71, -74.01, 19}, {"Karachi", 24.86, 67.01, 17},
		{"Buenos Aires", -34.60, -58.38, 15}, {"Chongqing", 29.56, 106.55, 17}, {"Istanbul", 41.01, 28.98, 16}, {"Kolkata", 22.57, 88.36, 15},
		{"Manila", 14.60, 120.98, 14}, {"Lagos", 6.52, 3.38, 15}, {"Rio de Janeiro", -22.91, -43.17, 13}, {"Guangzhou", 23.13, 113.26, 14},
		{"Los Angeles", 34.05, -118.24, 13}, {"Moscow", 55.76, 37.62, 13}, {"Shenzhen", 22.54, 114.06, 13}, {"Paris", 48.86, 2.35, 11},
		{"Bangalore", 12.97, 77.59, 13}, {"Bogota", 4.71, -74.07, 11}, {"Lima", -12.05, -77.04, 11}, {"Jakarta", -6.21, 106.85, 11},
		{"Bangkok", 13.76, 100.50, 11}, {"Seoul", 37.57, 126.98, 10}, {"Hyderabad", 17.39, 78.49, 10}, {"London", 51.51, -0.13, 10},
		{"Chicago", 41.88, -87.63, 9}, {"Tehran", 35.69, 51.39, 9}, {"Ho Chi Minh", 10.82, 106.63, 9}, {"Hong Kong", 22.32, 114.17, 8},
		{"Kuala Lumpur", 3.14, 101.69, 8}, {"Baghdad", 33.31, 44.37, 7}, {"Santiago", -33.45, -70.67, 7}, {"Madrid", 40.42, -3.70, 7},
		{"Toronto", 43.65, -79.38, 6}, {"Dallas", 32.78, -96.80, 7}, {"Houston", 29.76, -95.37, 7}, {"Miami", 25.76, -80.19, 6},
		{"Philadelphia", 39.95, -75.17, 6}, {"Atlanta", 33.75, -84.39, 6}, {"Washington", 38.91, -77.04, 6}, {"Boston", 42.36, -71.06, 5},
		{"Singapore", 1.35, 103.82, 6}, {"Riyadh", 24.71, 46.68, 7}, {"Saint Petersburg", 59.93, 30.34, 6}, {"Barcelona", 41.39, 2.17, 6},
		{"Phoenix", 33.45, -112.07, 5}, {"San Francisco", 37.77, -122.42, 5}, {"Seattle", 47.61, -122.33, 4}, {"Denver", 39.74, -104.99, 3},
		{"Montreal", 45.50, -73.57, 4}, {"Sydney", -33.87, 151.21, 5}, {"Melbourne", -37.81, 144.96, 5}, {"Brisbane", -27.47, 153.03, 3},
		{"Perth", -31.95, 115.86, 2}, {"Auckland", -36.85, 174.76, 2}, {"Johannesburg", -26.20, 28.05, 6}, {"Cape Town", -33.92, 18.42, 5},
		{"Nairobi", -1.29, 36.82, 5}, {"Casablanca", 33.57, -7.59, 4}, {"Algiers", 36.75, 3.06, 3}, {"Accra", 5.60, -0.19, 3},
		{"Rome", 41.90, 12.50, 4}, {"Milan", 45.46, 9.19, 5}, {"Berlin", 52.52, 13.40, 4}, {"Hamburg", 53.55, 9.99, 3},
		{"Munich", 48.14, 11.58, 3}, {"Frankfurt", 50.11, 8.68, 3}, {"Vienna", 48.21, 16.37, 3}, {"Warsaw", 52.23, 21.01, 3},
		{"Budapest", 47.50, 19.04, 3}, {"Prague", 50.08, 14.44, 2}, {"Amsterdam", 52.37, 4.90, 3}, {"Brussels", 50.85, 4.35, 2},
		{"Zurich", 47.37, 8.54, 1}, {"Lyon", 45.76, 4.84, 2}, {"Marseille", 43.30, 5.37, 2}, {"Lisbon", 38.72, -9.14, 3},
		{"Dublin", 53.35, -6.26, 1.5}, {"Manchester", 53.48, -2.24, 3}, {"Copenhagen", 55.68, 12.57, 1.5}, {"Stockholm", 59.33, 18.07, 2},
		{"Oslo", 59.91, 10.75, 1}, {"Helsinki", 60.17, 24.94, 1.3}, {"Kyiv", 50.45, 30.52, 3}, {"Bucharest", 44.43, 26.10, 2},
		{"Athens", 37.98, 23.73, 3}, {"Tel Aviv", 32.09, 34.78, 4}, {"Dubai", 25.20, 55.27, 3.5}, {"Taipei", 25.03, 121.57, 7},
		{"Hanoi", 21.03, 105.85, 5}, {"Fukuoka", 33.59, 130.40, 5}, {"Sapporo", 43.06, 141.35, 2.6}, {"Medellin", 6.24, -75.58, 4},
		{"Monterrey", 25.69, -100.32, 5}, {"Guadalajara", 20.66, -103.35, 5}, {"Fortaleza", -3.73, -38.52, 4}, {"Recife", -8.05, -34.88, 4},
	}
}
